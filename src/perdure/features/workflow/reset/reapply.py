"""What happened after the point of a reset, and is not to be lost: it happens to the new run again.

| event                           | becomes                                                              |
|---------------------------------|----------------------------------------------------------------------|
| SIGNALED                        | the same, unless signals are excluded                                |
| UPDATE_ADMITTED                 | UPDATE_ADMITTED, unless updates are excluded                         |
| UPDATE_ACCEPTED with a request  | UPDATE_ADMITTED, unless updates are excluded                         |
| OPTIONS_UPDATED                 | the same, unless all it did is attach callbacks that are there       |
| child started, failed to, ended | the same, if the new run waits for that child (base run only)        |
| any other                       | nothing: the workflow's code makes it again, or it is not repeated   |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType, ResetReapplyType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes

from perdure.core.errors import invalid_argument
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.update.lifecycle import is_known, readmit

E = EventType
Exclude = ResetReapplyExcludeType
SIGNALS = Exclude.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
UPDATES = Exclude.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE
EVERYTHING = frozenset(Exclude.values()) - {Exclude.RESET_REAPPLY_EXCLUDE_TYPE_UNSPECIFIED}


def excluded_types(exclude: Iterable[Exclude.ValueType], reapply_type: ResetReapplyType.ValueType) -> frozenset[int]:
    """What a request does not want to happen again. reapply_type: how older clients say it.

    Raises ApiError INVALID_ARGUMENT for an unknown reapply type.
    """
    if reapply_type not in ResetReapplyType.values():
        raise invalid_argument(f"unknown reset reapply type: {int(reapply_type)}")
    excluded = set(exclude)
    if reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL:
        excluded.add(UPDATES)
    elif reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_NONE:
        excluded.update((SIGNALS, UPDATES))
    return frozenset(excluded)


def is_eligible(event: HistoryEvent, *, of_base: bool) -> bool:
    """Whether an event may have to happen again. of_base: it is of the run that is reset; only there event ids mean the same things."""
    return event.event_type in _HANDLERS and (of_base or event.event_type not in _ABOUT_CHILDREN)


def reapply(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    """Let an event of another run happen to this one, if it is of a kind that does."""
    handler = _HANDLERS.get(event.event_type)
    if handler is not None:
        handler(step, event, excluded)


def _signaled(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    if SIGNALS not in excluded:
        step.event(event.workflow_execution_signaled_event_attributes, links=event.links)


def _update_admitted(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    request = event.workflow_execution_update_admitted_event_attributes.request
    if UPDATES not in excluded and not is_known(step.state, request.meta.update_id):
        readmit(step, request)


def _update_accepted(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    attributes = event.workflow_execution_update_accepted_event_attributes
    if UPDATES in excluded or not attributes.HasField("accepted_request"):
        return  # without a request it was admitted by an event before
    if not is_known(step.state, attributes.accepted_request.meta.update_id):
        readmit(step, attributes.accepted_request)


def _options_updated(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    attributes = event.workflow_execution_options_updated_event_attributes
    changed = WorkflowExecutionOptionsUpdatedEventAttributes()
    changed.CopyFrom(attributes)
    if attributes.attached_request_id and attributes.attached_request_id in step.state.request_ids:
        changed.ClearField("attached_request_id")
        changed.ClearField("attached_completion_callbacks")
        if not changed.ByteSize():
            return
    step.event(changed, links=event.links)


def _child_start_answered(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    attributes = _attributes(event)
    child = step.state.children.get(attributes.initiated_event_id)
    if child is not None and not child.first_run_id:
        step.event(attributes)
        step.flush()  # what follows refers to it


def _child_ended(step: WorkflowStep, event: HistoryEvent, excluded: frozenset[int]) -> None:
    attributes = _attributes(event)
    child = step.state.children.get(attributes.initiated_event_id)
    if child is not None:
        attributes.started_event_id = child.started_event_id
        step.flush()
        step.event(attributes)
        step.flush()


def _attributes(event: HistoryEvent) -> Any:
    """A copy of an event's attributes."""
    which = event.WhichOneof("attributes")
    assert which is not None
    attributes = getattr(event, which)
    copied = type(attributes)()
    copied.CopyFrom(attributes)
    return copied


_ABOUT_CHILDREN: dict[int, Callable[[WorkflowStep, HistoryEvent, frozenset[int]], None]] = {
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_start_answered,
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _child_start_answered,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_ended,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_ended,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_ended,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_ended,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_ended,
}
_HANDLERS: dict[int, Callable[[WorkflowStep, HistoryEvent, frozenset[int]], None]] = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signaled,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update_admitted,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _update_accepted,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: _options_updated,
    **_ABOUT_CHILDREN,
}
