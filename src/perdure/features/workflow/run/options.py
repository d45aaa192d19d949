"""What can change about a running run from outside, beside its code: what is attached to it, its priority, its worker version."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.api.common.v1 import Callback, Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes

from perdure.core.clock import timestamp_ns
from perdure.core.errors import failed_precondition
from perdure.core.execution import Touch
from perdure.features.workflow.registry import applies, numbered
from perdure.features.workflow.run.callbacks import CompletionCallback
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.update.lifecycle import apply_update_options

OPTIONS_UPDATED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED


def attach(step: WorkflowStep, request_id: str, callbacks: Sequence[Callback], links: Sequence[Link]) -> None:
    """Attach to a running run what a start brought along that found it running. request_id: "" to attach none.

    Raises ApiError FAILED_PRECONDITION for more callbacks than a run can have.
    """
    check_callback_count(step, callbacks)
    step.event(
        WorkflowExecutionOptionsUpdatedEventAttributes(attached_request_id=request_id, attached_completion_callbacks=callbacks), links=links
    )


def check_callback_count(step: WorkflowStep, callbacks: Sequence[Callback]) -> None:
    """Raises ApiError FAILED_PRECONDITION for more callbacks than a run can have."""
    attached, limit = len(step.state.callbacks), step.limits.callbacks_per_execution
    if attached + len(callbacks) > limit:
        raise failed_precondition(f"cannot attach more than {limit} callbacks to a workflow ({attached} callbacks already attached)")


@applies(OPTIONS_UPDATED)
def _options_updated(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_execution_options_updated_event_attributes
    keep_callbacks(state, event, attributes.attached_completion_callbacks, attributes.attached_request_id)
    for request_id in _request_ids(event):
        state.request_ids[request_id] = (OPTIONS_UPDATED, 0)
    if attributes.unset_versioning_override:
        state.versioning_override = None
    if attributes.HasField("versioning_override"):
        state.versioning_override = attributes.versioning_override
        state.was_overridden = True
    if attributes.HasField("priority") and attributes.priority != state.priority:
        state.priority.CopyFrom(attributes.priority)
        state.priority_changes += 1
        touch(state.task)  # which may wait at the place that the old priority gave it
    apply_update_options(state, event)


@numbered(OPTIONS_UPDATED)
def _options_numbered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    for request_id in _request_ids(event):
        state.request_ids[request_id] = (OPTIONS_UPDATED, event.event_id)


def _request_ids(event: HistoryEvent) -> list[str]:
    """Of the requests that the event attached something for, to the run or to an update."""
    attributes = event.workflow_execution_options_updated_event_attributes
    attached = [attributes.attached_request_id, *(option.attached_request_id for option in attributes.workflow_update_options)]
    return [request_id for request_id in attached if request_id]


def keep_callbacks(state: WorkflowState, event: HistoryEvent, callbacks: Sequence[Callback], request_id: str) -> None:
    """Remember the completion callbacks that an event brought."""
    registered_at = timestamp_ns(event.event_time)
    state.callbacks.extend(CompletionCallback(callback, registered_at, request_id) for callback in callbacks)
