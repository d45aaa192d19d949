"""UpdateWorkflowExecutionOptions."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import UpdateWorkflowExecutionOptionsRequest, UpdateWorkflowExecutionOptionsResponse

from perdure.core.call import Call, MethodTable
from perdure.core.errors import invalid_argument, not_found
from perdure.engine.transaction import Transaction
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.run.option_changes import change_options, check_paths, check_pinned, check_wanted_override
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import check_priority, check_time_skipping


class OptionsRpc:
    """Lets operators change the options of runs."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("UpdateWorkflowExecutionOptions", self.update)

    async def update(self, request: UpdateWorkflowExecutionOptionsRequest, call: Call) -> UpdateWorkflowExecutionOptionsResponse:
        execution = request.workflow_execution
        wanted = request.workflow_execution_options
        if not execution.workflow_id:
            raise invalid_argument("WorkflowId is not set on request.")
        if not request.HasField("update_mask"):
            raise invalid_argument("UpdateMask is required")
        if not request.HasField("workflow_execution_options"):
            raise invalid_argument("WorkflowExecutionOptions is required")
        if problem := check_paths(request.update_mask):
            raise invalid_argument(f"error parsing UpdateMask: {problem}")
        check_priority(wanted.priority, self._services.limits)
        check_time_skipping(wanted)

        def decide(step: WorkflowStep, transaction: Transaction) -> UpdateWorkflowExecutionOptionsResponse:
            if not step.state.is_open:
                raise not_found(CLOSED)
            check_pinned(wanted.versioning_override, execution.workflow_id)
            check_wanted_override(wanted, step.state.task_queue)
            changed = change_options(step, wanted, request.update_mask, request.identity)
            return UpdateWorkflowExecutionOptionsResponse(workflow_execution_options=changed)

        return await self._services.step(call.namespace_id, execution.workflow_id, execution.run_id, decide)
