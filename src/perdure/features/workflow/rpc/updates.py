"""UpdateWorkflowExecution, PollWorkflowExecutionUpdate."""

from __future__ import annotations

from temporalio.api.update.v1 import WaitPolicy
from temporalio.api.workflowservice.v1 import (
    PollWorkflowExecutionUpdateRequest,
    PollWorkflowExecutionUpdateResponse,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.errors import invalid_argument, not_found, permission_denied
from perdure.core.execution import RunKey
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.engine.transaction import Transaction
from perdure.features.workflow.rpc.update_stages import ADMITTED, COMPLETED, UpdateLost, UpdateStages, update_ref, update_response
from perdure.features.workflow.rpc.waiting import Patience
from perdure.features.workflow.run.callbacks import check_callbacks
from perdure.features.workflow.run.links import check_links, without_callback_links
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.update.lifecycle import admit, is_known
from perdure.features.workflow.update.metrics import count_asked
from perdure.features.workflow.update.pending import PendingUpdate
from perdure.features.workflow.validation import check_execution


class UpdateRpc:
    """Takes updates in and tells how far they have come."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services
        self._stages = UpdateStages(services)

    def register(self, methods: MethodTable) -> None:
        methods.handle("UpdateWorkflowExecution", self.update)
        methods.handle("PollWorkflowExecutionUpdate", self.poll)

    async def update(self, request: UpdateWorkflowExecutionRequest, call: Call) -> UpdateWorkflowExecutionResponse:
        services = self._services
        prepare_update(request, services.limits, services.engine.ids)
        update_id, stage = request.request.meta.update_id, request.wait_policy.lifecycle_stage
        with Patience(services, call, services.limits.history_long_poll_ns) as patience:
            while True:
                key, pending = await self._admit(request, call, patience)
                try:
                    reached = await self._stages.wait(key, update_id, pending, stage, patience)
                except UpdateLost:
                    continue  # nothing of it happened: admit it again, on the current run if none was named
                return update_response(request, key.run_id, reached)

    async def _admit(self, request: UpdateWorkflowExecutionRequest, call: Call, patience: Patience) -> tuple[RunKey, PendingUpdate | None]:
        def decide(step: WorkflowStep, transaction: Transaction) -> tuple[RunKey, PendingUpdate | None]:
            first_run_id = step.state.started.first_execution_run_id
            if request.first_execution_run_id not in ("", first_run_id):
                raise not_found("workflow execution not found")
            assert transaction.run is not None
            patience.hold(transaction.run)
            count_asked(step, request.wait_policy.lifecycle_stage)
            return step.key, admit(step, request.request)

        execution = request.workflow_execution
        return await self._services.step(call.namespace_id, execution.workflow_id, execution.run_id, decide)

    async def poll(self, request: PollWorkflowExecutionUpdateRequest, call: Call) -> PollWorkflowExecutionUpdateResponse:
        if not request.HasField("update_ref"):
            raise invalid_argument("UpdateRef is not set on request.")
        services = self._services
        asked, update_id = request.update_ref.workflow_execution, request.update_ref.update_id
        if not asked.workflow_id:
            raise invalid_argument("Can't load workflow execution.  WorkflowId not set.")
        execution = await services.run(call.namespace_id, asked.workflow_id, asked.run_id)
        pending = execution.volatile.updates.get(update_id) if execution.state.is_open else None
        missing = not_found(f'update "{update_id}" not found')
        if pending is None and not is_known(execution.state, update_id):
            raise missing
        with Patience(services, call, services.limits.history_long_poll_ns) as patience:
            patience.hold(execution)
            try:
                reached = await self._stages.wait(execution.key, update_id, pending, request.wait_policy.lifecycle_stage, patience)
            except UpdateLost:
                raise missing from None
        return PollWorkflowExecutionUpdateResponse(
            outcome=reached.outcome, stage=reached.stage, update_ref=update_ref(asked.workflow_id, execution.key.run_id, update_id)
        )


def prepare_update(request: UpdateWorkflowExecutionRequest, limits: Limits, ids: IdSource) -> None:
    """Check an update request and fill in what it leaves out: the update id, the stage to wait for. Raises ApiError."""
    check_execution(request.workflow_execution if request.HasField("workflow_execution") else None)
    update = request.request
    if not update.HasField("meta"):
        raise invalid_argument("Update meta is not set on request.")
    if len(update.meta.update_id.encode()) > limits.max_id_length:
        raise invalid_argument("UpdateId length exceeds limit.")
    if not update.meta.update_id:
        update.meta.update_id = ids.uuid()
    if not update.HasField("input"):
        raise invalid_argument("Update input is not set on request.")
    if not update.input.name:
        raise invalid_argument("Update name is not set on request.")
    stage = request.wait_policy.lifecycle_stage or COMPLETED
    if stage == ADMITTED:
        raise permission_denied("UpdateWorkflowExecution issued asynchronously and waiting on update admitted is not supported.")
    request.wait_policy.CopyFrom(WaitPolicy(lifecycle_stage=stage))
    check_callbacks(update.completion_callbacks, limits)
    links = without_callback_links(update.links, update.completion_callbacks)
    check_links(links, update.completion_callbacks, limits)
    del update.links[:]
    update.links.extend(links)
