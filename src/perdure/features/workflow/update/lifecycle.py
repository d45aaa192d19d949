"""Updates: admitted, sent to a worker, accepted or rejected, completed.

| from           | intent                                        | to       | record                                       |
|----------------|-----------------------------------------------|----------|----------------------------------------------|
| (none)         | admit                                         | ADMITTED | nothing (memory only)                        |
| (none)         | admit again, after a reset                    | ADMITTED | UPDATE_ADMITTED                              |
| (none)         | accept, reject: the message has the request   | ADMITTED | nothing; then as below                       |
| ADMITTED, SENT | go with a workflow task                       | SENT     | nothing                                      |
| ADMITTED, SENT | accept                                        | ACCEPTED | UPDATE_ACCEPTED                              |
| ADMITTED, SENT | reject                                        | (none)   | nothing; a note, if it was admitted again    |
| SENT           | the worker completes the task, not saying     | (none)   | as rejected                                  |
| SENT           | the server fails the task                     | (none)   | nothing; callers are told                    |
| SENT           | the worker fails the task, it times out       | SENT     | nothing; it goes with the next task          |
| ACCEPTED       | respond                                       | (done)   | UPDATE_COMPLETED                             |
| ADMITTED, SENT | the run closes                                | (none)   | nothing; callers are told                    |
| ACCEPTED       | the run closes                                | ACCEPTED | nothing; its outcome is a failure            |
| any            | admit, same update id                         | the same | nothing: the callers share the outcome       |

ADMITTED and SENT live in :class:`WorkflowVolatile`; ACCEPTED and what follows are in history, and answer for the run's whole life.
"""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Callback
from temporalio.api.enums.v1 import EventType, ResourceExhaustedCause, ResourceExhaustedScope, UpdateAdmittedEventOrigin
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionUpdateAcceptedEventAttributes,
    WorkflowExecutionUpdateAdmittedEventAttributes,
    WorkflowExecutionUpdateCompletedEventAttributes,
)
from temporalio.api.update.v1 import Acceptance, Outcome, Request, Response

from perdure.core.clock import timestamp_ns
from perdure.core.errors import (
    ApiError,
    busy_workflow,
    failed_precondition,
    invalid_argument,
    not_found,
    resource_exhausted,
    workflow_not_ready,
)
from perdure.core.execution import Touch
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies, applies_note, numbered
from perdure.features.workflow.run.interaction import CLOSED, CLOSING
from perdure.features.workflow.state import Status, Update, UpdateCallback, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.speculative import schedule_speculative_task
from perdure.features.workflow.update.counts import in_flight
from perdure.features.workflow.update.metrics import WORKFLOW_TASK_FAILED, count_aborted
from perdure.features.workflow.update.pending import PendingStatus, PendingUpdate

E = EventType
OptionsUpdated = WorkflowExecutionOptionsUpdatedEventAttributes


UNPROCESSED = Failure(
    message="Workflow Update is rejected because it wasn't processed by worker. Probably, Workflow Update is not supported by the worker.",
    source="Server", application_failure_info=ApplicationFailureInfo(type="UnprocessedUpdate", non_retryable=True),
)  # fmt: skip
WORKFLOW_COMPLETED_FIRST = Failure(
    message="Workflow Update failed because the Workflow completed before the Update completed.",
    source="Server", application_failure_info=ApplicationFailureInfo(type="AcceptedUpdateCompletedWorkflow", non_retryable=True),
)  # fmt: skip


# -- admission -----------------------------------------------------------------------------------------------
def admit(step: WorkflowStep, request: Request) -> PendingUpdate | None:
    """Take an update in and see to a task that carries it. None: history has it already.

    Raises ApiError when the run is closed (unless it knows the update), paused, closing or failing, or has too many updates.
    """
    state = step.state
    update_id = request.meta.update_id
    if not state.is_open:
        if is_known(state, update_id):
            return None
        raise not_found(CLOSED)
    if state.status == Status.PAUSED:
        raise failed_precondition("Workflow is paused. Cannot update the workflow.")
    if state.task.attempt >= step.limits.workflow_task_failing_attempt:
        raise workflow_not_ready("Unable to perform workflow execution update due to Workflow Task in failed state.")
    if state.close_attempted and step.task.is_started:
        raise busy_workflow(CLOSING)
    pending = step.volatile.updates.get(update_id)
    if pending is not None or is_known(state, update_id):
        attach_callbacks(step, request, pending)
        return pending
    _check_limits(step, request)
    _check_callbacks(step, request, None)
    pending = PendingUpdate(update_id, request)
    _add(step, pending)
    schedule_speculative_task(step)
    return pending


def readmit(step: WorkflowStep, request: Request) -> None:
    """Take over an update from the run that this one was reset from: history has it, so it needs no message."""
    origin = UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
    step.event(WorkflowExecutionUpdateAdmittedEventAttributes(request=request, origin=origin))


def is_known(state: WorkflowState, update_id: str) -> bool:
    """Whether history has the update."""
    return update_id in state.updates or update_id in state.completed_updates


def _check_limits(step: WorkflowStep, request: Request) -> None:
    pending, limits = step.volatile.updates, step.limits
    exhausted = ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
    scope = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
    if in_flight(step) >= limits.updates_in_flight > 0:
        raise resource_exhausted(
            f"limit on number of concurrent in-flight updates has been reached ({limits.updates_in_flight})", exhausted, scope
        )
    check_total(step)
    size = request.ByteSize() + sum(update.size for update in pending.values())
    if size >= limits.updates_in_flight_payload_bytes > 0:
        most = limits.updates_in_flight_payload_bytes
        raise resource_exhausted(f"limit on total payload size of in-flight updates has been reached ({most} bytes)", exhausted, scope)


def check_total(step: WorkflowStep) -> None:
    """Raises ApiError when the run has had as many updates as it can have."""
    limit = step.limits.updates_total
    if in_flight(step) + len(step.state.completed_updates) >= limit > 0:
        raise failed_precondition(
            f"The limit on the total number of distinct updates in this workflow has been reached ({limit}). "
            "Make sure any duplicate updates share an Update ID so the server can deduplicate them, and consider rejecting updates "
            "that you aren't going to process. "
            "You can also Continue-as-New to avoid this; we recommend you check Continue-as-New Suggested in your Workflow."
        )


# -- callbacks -------------------------------------------------------------------------------------------------
def attach_callbacks(step: WorkflowStep, request: Request, pending: PendingUpdate | None) -> None:
    """A further caller of the same update wants to be told too; once per request id. Nobody is told of what is over already."""
    callbacks = list(request.completion_callbacks)
    update_id = request.meta.update_id
    if not callbacks or update_id in step.state.completed_updates:
        return
    _check_callbacks(step, request, pending)
    if pending is None:
        _record_callbacks(step, update_id, request.request_id, callbacks)
    else:
        pending.callbacks.setdefault(request.request_id, callbacks)


def _check_callbacks(step: WorkflowStep, request: Request, pending: PendingUpdate | None) -> None:
    """Refuse more callbacks than an update can have, and such as could not be told apart from others."""
    more = len(request.completion_callbacks)
    if not more:
        return
    if not request.request_id:
        raise invalid_argument("invalid *update.Request: request_id is required when completion_callbacks are set")
    update_id = request.meta.update_id
    attached = sum(callback.update_id == update_id for callback in step.state.update_callbacks)
    if pending is not None and pending.request is not None:
        attached += len(pending.request.completion_callbacks) + sum(map(len, pending.callbacks.values()))
    limit = step.limits.callbacks_per_update
    if attached + more > limit:
        raise failed_precondition(
            f'cannot attach more than {limit} callbacks to update "{update_id}" ({attached} callbacks already attached)'
        )


def _record_callbacks(step: WorkflowStep, update_id: str, request_id: str, callbacks: list[Callback]) -> None:
    if any(c.request_id == request_id for c in step.state.update_callbacks):
        return
    option = OptionsUpdated.WorkflowUpdateOptionsUpdate(
        update_id=update_id, attached_request_id=request_id, attached_completion_callbacks=callbacks
    )
    step.event(OptionsUpdated(workflow_update_options=[option]))


def apply_update_options(state: WorkflowState, event: HistoryEvent) -> None:
    """What an OPTIONS_UPDATED event says about updates. Their request ids get its event id when it has one."""
    for option in event.workflow_execution_options_updated_event_attributes.workflow_update_options:
        _keep_callbacks(state, event, option.update_id, option.attached_request_id, option.attached_completion_callbacks)


def _keep_callbacks(state: WorkflowState, event: HistoryEvent, update_id: str, request_id: str, callbacks: Iterable[Callback]) -> None:
    registered_at = timestamp_ns(event.event_time)
    state.update_callbacks.extend(UpdateCallback(update_id, request_id, registered_at, callback) for callback in callbacks)


# -- the worker's answers ----------------------------------------------------------------------------------------
def find(step: WorkflowStep, update_id: str) -> PendingUpdate | None:
    """The update if it waits for a worker's answer."""
    update = step.state.updates.get(update_id)
    if update is not None and not update.accepted_event_id:
        take_readmitted(step)
    return step.volatile.updates.get(update_id)


def take_readmitted(step: WorkflowStep) -> None:
    """Bring the updates that history says were admitted again into memory; the history that the worker gets has their requests."""
    for update_id, update in step.state.updates.items():
        if not update.accepted_event_id and update_id not in step.volatile.updates:
            _add(step, PendingUpdate(update_id, None, PendingStatus.SENT))


def resurrect(step: WorkflowStep, request: Request, update_id: str) -> PendingUpdate:
    """A worker answers an update that memory has lost, and says what it was: it counts."""
    pending = PendingUpdate(update_id, request)
    _add(step, pending)
    return pending


def accept(step: WorkflowStep, pending: PendingUpdate, message: Acceptance) -> None:
    """The worker runs the update's handler: that is for good."""
    request = pending.request
    links = [
        link
        for callback in (request.completion_callbacks if request is not None else ())
        if callback.HasField("nexus")
        for link in callback.links
    ]
    step.event(
        WorkflowExecutionUpdateAcceptedEventAttributes(
            protocol_instance_id=pending.update_id, accepted_request_message_id=f"{pending.update_id}/request",
            accepted_request_sequencing_event_id=message.accepted_request_sequencing_event_id, accepted_request=request,
        ),
        links=links,
    )  # fmt: skip
    for request_id, callbacks in pending.callbacks.items():
        _record_callbacks(step, pending.update_id, request_id, callbacks)
    _leave(step, pending, PendingStatus.ACCEPTED)


def reject(step: WorkflowStep, pending: PendingUpdate, failure: Failure) -> None:
    """The update's validator (or the lack of a handler) refused it."""
    if pending.update_id in step.state.updates:
        step.note(notes.ReadmittedUpdateRejected(pending.update_id))
    _leave(step, pending, PendingStatus.REJECTED, outcome=Outcome(failure=failure))


def reject_unprocessed(step: WorkflowStep) -> None:
    """The worker completed the task that carried these updates and said nothing about them: it cannot handle updates."""
    for pending in list(step.volatile.updates.values()):
        if pending.status == PendingStatus.SENT:
            reject(step, pending, UNPROCESSED)


def fail_sent(step: WorkflowStep) -> None:
    """The server fails the task that carried these updates: they are not tried again."""
    error = workflow_not_ready("Unable to perform workflow execution update due to unexpected workflow task failure.")
    sent = [pending for pending in step.volatile.updates.values() if pending.status == PendingStatus.SENT]
    for pending in sent:
        _leave(step, pending, PendingStatus.FAILED, error=error)
    count_aborted(step, WORKFLOW_TASK_FAILED, len(sent))


def respond(step: WorkflowStep, update_id: str, message: Response) -> None:
    """The update's handler returned or failed."""
    step.event(
        WorkflowExecutionUpdateCompletedEventAttributes(
            meta=message.meta, accepted_event_id=step.state.updates[update_id].accepted_event_id, outcome=message.outcome
        )
    )


# -- what is in memory --------------------------------------------------------------------------------------------
def mark_sent(step: WorkflowStep, pending: PendingUpdate) -> None:
    """The update goes with a workflow task that is being handed out."""
    before = pending.status

    def restore() -> None:
        pending.status = before

    step.on_undo(restore)
    pending.status = PendingStatus.SENT


def _add(step: WorkflowStep, pending: PendingUpdate) -> None:
    _replace(step, {**step.volatile.updates, pending.update_id: pending})


def _leave(
    step: WorkflowStep, pending: PendingUpdate, status: PendingStatus, *, outcome: Outcome | None = None, error: ApiError | None = None,
) -> None:  # fmt: skip
    before = pending.status

    def restore() -> None:
        pending.status, pending.outcome, pending.error = before, None, None

    step.on_undo(restore)
    pending.status, pending.outcome, pending.error = status, outcome, error
    _replace(step, {update_id: p for update_id, p in step.volatile.updates.items() if p is not pending})


def _replace(step: WorkflowStep, updates: dict[str, PendingUpdate]) -> None:
    volatile = step.volatile
    before = volatile.updates

    def restore() -> None:
        volatile.updates = before

    step.on_undo(restore)
    volatile.updates = updates
    step.touch_volatile()


# -- appliers ---------------------------------------------------------------------------------------------------
@applies(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
def _admitted(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    request = event.workflow_execution_update_admitted_event_attributes.request
    state.updates[request.meta.update_id] = Update()
    _keep_callbacks(state, event, request.meta.update_id, request.request_id, request.completion_callbacks)


@numbered(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED)
def _admitted_numbered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    request = event.workflow_execution_update_admitted_event_attributes.request
    if request.meta.update_id in state.updates:
        state.updates[request.meta.update_id].admitted_event_id = event.event_id
    if request.request_id:
        state.request_ids[request.request_id] = (event.event_type, event.event_id)


@applies(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
def _accepted(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    update = state.updates.setdefault(attributes.protocol_instance_id, Update())
    update.accepted_event_id = event.event_id
    request = attributes.accepted_request
    if request.request_id:
        state.request_ids[request.request_id] = (event.event_type, event.event_id)
    _keep_callbacks(state, event, attributes.protocol_instance_id, request.request_id, request.completion_callbacks)


@applies(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
def _completed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    update_id = event.workflow_execution_update_completed_event_attributes.meta.update_id
    state.updates.pop(update_id, None)
    state.completed_updates[update_id] = event.event_id


@applies_note(notes.ReadmittedUpdateRejected)
def _readmitted_rejected(state: WorkflowState, note: notes.ReadmittedUpdateRejected, touch: Touch) -> None:
    state.updates.pop(note.update_id, None)
