"""How far an update has come, as its callers are told: read from history, and from memory for what is not there yet."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.common.v1 import Link
from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import EventType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.history.v1 import History
from temporalio.api.update.v1 import Outcome, UpdateRef
from temporalio.api.workflowservice.v1 import UpdateWorkflowExecutionRequest, UpdateWorkflowExecutionResponse

from perdure.core.errors import busy_workflow, not_found, unavailable
from perdure.core.execution import RunKey
from perdure.features.workflow.rpc.waiting import Patience
from perdure.features.workflow.run.interaction import CLOSING
from perdure.features.workflow.run.links import request_link
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.update.lifecycle import WORKFLOW_COMPLETED_FIRST
from perdure.features.workflow.update.pending import PendingStatus, PendingUpdate

Stage = UpdateWorkflowExecutionLifecycleStage
ADMITTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
ACCEPTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

UPDATE_ACCEPTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED

ABORTED = "workflow update was aborted by closing workflow"
STOPPED = "workflow update was aborted"
"""The server stops before the update was accepted: nothing of it has happened."""


class UpdateLost(Exception):
    """Memory lost the update before it was accepted: whoever wants it has to ask again."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The stage an update has reached, with its outcome if that is COMPLETED."""

    stage: Stage.ValueType
    outcome: Outcome | None = None


class UpdateStages:
    """Tells how far updates have come, and waits for more."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    async def wait(
        self, key: RunKey, update_id: str, pending: PendingUpdate | None, wanted: Stage.ValueType, patience: Patience
    ) -> Reached:
        """Wait until an update has reached a stage, or the time is over; then it is the stage reached so far.

        pending: the update as it was admitted, None if history has it. Everything told is durable. Raises UpdateLost, or ApiError when the
        update can come no further.
        """
        while True:
            execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
            reached = await self._look(execution, update_id, pending)
            if reached.stage >= wanted:
                return reached
            if patience.is_cut_short and reached.stage < ACCEPTED:
                raise unavailable(STOPPED)  # it is in memory only
            if patience.is_over:
                return reached
            await patience.next_change(execution)

    async def _look(self, execution: WorkflowExecution, update_id: str, pending: PendingUpdate | None) -> Reached:
        if pending is not None and pending.status == PendingStatus.REJECTED:
            return Reached(COMPLETED, pending.outcome)
        if pending is not None and pending.error is not None:
            raise pending.error
        state = execution.state
        completed_event_id = state.completed_updates.get(update_id)
        if completed_event_id is not None:
            return Reached(COMPLETED, await self.outcome(execution, completed_event_id))
        update = state.updates.get(update_id)
        if update is not None and update.accepted_event_id:
            return Reached(ACCEPTED) if state.is_open else Reached(COMPLETED, Outcome(failure=WORKFLOW_COMPLETED_FIRST))
        if not state.is_open:
            # Clients try again by themselves what was busy, and so reach the run that follows.
            raise busy_workflow(CLOSING) if state.new_run_id else not_found(ABORTED)
        if update is None and update_id not in execution.volatile.updates:
            raise UpdateLost
        return Reached(ADMITTED)

    async def outcome(self, execution: WorkflowExecution, completed_event_id: int) -> Outcome:
        """The outcome that a completed event holds."""
        batches = await self._services.engine.history(execution, completed_event_id, completed_event_id)
        events = (event for batch in batches for event in History.FromString(batch.events).events)
        event = next(event for event in events if event.event_id == completed_event_id)
        return event.workflow_execution_update_completed_event_attributes.outcome


def update_response(
    request: UpdateWorkflowExecutionRequest, run_id: str, reached: Reached, *, links: bool = True
) -> UpdateWorkflowExecutionResponse:
    """links: say where the update can be found in history."""
    workflow_id = request.workflow_execution.workflow_id
    response = UpdateWorkflowExecutionResponse(
        update_ref=update_ref(workflow_id, run_id, request.request.meta.update_id), outcome=reached.outcome, stage=reached.stage
    )
    if not links or reached.stage < ACCEPTED:
        return response
    if reached.outcome is not None and reached.outcome.HasField("failure"):
        # The official server takes every failed update for a rejected one, which has no event.
        rejected = Link.Workflow(namespace=request.namespace, workflow_id=workflow_id, run_id=run_id, reason="Update rejected")
        response.link.workflow.CopyFrom(rejected)
    else:
        response.link.CopyFrom(request_link(request.namespace, workflow_id, run_id, request.request.request_id, UPDATE_ACCEPTED))
    return response


def update_ref(workflow_id: str, run_id: str, update_id: str) -> UpdateRef:
    return UpdateRef(workflow_execution=WorkflowExecutionId(workflow_id=workflow_id, run_id=run_id), update_id=update_id)
