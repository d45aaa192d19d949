"""ResetWorkflowExecution."""

from __future__ import annotations

from temporalio.api.workflow.v1 import PostResetOperation
from temporalio.api.workflowservice.v1 import (
    ResetWorkflowExecutionRequest,
    ResetWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.errors import busy_workflow, invalid_argument
from perdure.core.execution import ChainKey
from perdure.core.limits import Limits
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.reset.plan import make_plan
from perdure.features.workflow.reset.reapply import excluded_types
from perdure.features.workflow.reset.reset import Moved, ResetOptions, check_finish_event_id, reset, reset_again
from perdure.features.workflow.rpc.resume import HEADER, resume_point
from perdure.features.workflow.run.option_changes import change_options, check_wanted_override
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import check_execution, check_priority, check_time_skipping

PLANS = 10
"""A plan is outdated when the workflow did much while it was made. So many are made before the caller is told to come back."""


class ResetRpc:
    """Sends runs back to an earlier point."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("ResetWorkflowExecution", self.reset)

    async def reset(self, request: ResetWorkflowExecutionRequest, call: Call) -> ResetWorkflowExecutionResponse:
        if not request.request_id:
            raise invalid_argument("RequestId is not set on request.")
        if len(request.request_id.encode()) > self._services.limits.max_id_length:
            raise invalid_argument("RequestId length exceeds limit.")
        check_execution(request.workflow_execution if request.HasField("workflow_execution") else None)
        excluded = excluded_types(request.reset_reapply_exclude_types, request.reset_reapply_type)
        for operation in request.post_reset_operations:
            check_time_skipping(operation.update_workflow_options.workflow_execution_options)

        def change(step: WorkflowStep) -> None:
            for operation in request.post_reset_operations:
                update = operation.update_workflow_options
                change_options(step, update.workflow_execution_options, update.update_mask, "")

        options = ResetOptions(request.reason, request.request_id, excluded, change)
        return ResetWorkflowExecutionResponse(run_id=await self._reset(request, call, options))

    async def _reset(self, request: ResetWorkflowExecutionRequest, call: Call, options: ResetOptions) -> str:
        services, namespace_id = self._services, call.namespace_id
        resumes = call.headers.get(HEADER)
        if resumes is not None and request.workflow_task_finish_event_id:
            raise invalid_argument(f"the header {HEADER} and WorkflowTaskFinishEventId exclude each other: set one of them.")
        workflow_id = request.workflow_execution.workflow_id
        key = ChainKey(namespace_id, WORKFLOW, workflow_id)
        for _ in range(PLANS):
            base = await services.run(namespace_id, workflow_id, request.workflow_execution.run_id)
            if run_id := reset_again(await services.engine.read(key, None), options.request_id):
                return run_id
            finish_event_id = request.workflow_task_finish_event_id
            if resumes is not None:
                finish_event_id = (await resume_point(services, base, resumes)).workflow_task_finish_event_id
            check_finish_event_id(finish_event_id, base.state.next_event_id)
            _check_operations(request.post_reset_operations, base.state.task_queue, services.limits)
            plan = await make_plan(services, base, finish_event_id, options.excluded)
            try:
                return await services.engine.transact(key, plan.base_run_id, lambda t, plan=plan: reset(t, plan, options))
            except Moved:
                continue
        raise busy_workflow("Workflow is busy.")


def _check_operations(operations: object, task_queue: str, limits: Limits) -> None:
    """Raises ApiError for an operation that no reset can be followed by."""
    sequence: list[PostResetOperation] = list(operations)  # pyright: ignore
    for operation in sequence:
        match operation.WhichOneof("variant"):
            case "update_workflow_options":
                check_priority(operation.update_workflow_options.workflow_execution_options.priority, limits)
                check_wanted_override(operation.update_workflow_options.workflow_execution_options, task_queue)
            case "signal_workflow":
                raise invalid_argument("unsupported post reset operation: *workflow.PostResetOperation_SignalWorkflow_")
            case _:
                raise invalid_argument("unsupported post reset operation: <nil>")
