"""A run on hold: it takes in what happens, but nothing is handed to workers until it goes on.

| workflow task      | intent  | becomes            | record                                                                       |
|--------------------|---------|--------------------|------------------------------------------------------------------------------|
| none               | pause   | none               | PAUSED                                                                       |
| scheduled          | pause   | none               | WORKFLOW_TASK_FAILED (a note for a transient one), PAUSED                    |
| started            | pause   | started            | PAUSED, numbered when the task ends; no other task follows it                |
| speculative        | pause   | none               | PAUSED; its updates wait                                                     |
| none               | unpause | scheduled          | UNPAUSED, WORKFLOW_TASK_SCHEDULED                                            |
| started            | unpause | started            | UNPAUSED, numbered when the task ends; another task follows it               |

While it is paused, timers fire, activities that run go on (no attempt is handed out, unless an operator lets that activity go on) and
signals are taken, but no workflow task is scheduled.
"""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionPausedEventAttributes,
    WorkflowExecutionUnpausedEventAttributes,
    WorkflowTaskFailedEventAttributes,
)

from perdure.core.clock import timestamp_ns
from perdure.core.errors import failed_precondition, not_found
from perdure.core.execution import Touch
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies
from perdure.features.workflow.run.closing import SERVER_IDENTITY
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.run.pause_info import refresh_pause_info
from perdure.features.workflow.state import Status, TaskStatus, WorkflowPause, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task

_BEFORE_START = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED


def pause(step: WorkflowStep, *, identity: str, reason: str, request_id: str) -> None:
    """Put the run on hold. Raises ApiError when it is closed, or was paused by another request."""
    state = step.state
    if not state.is_open:
        raise not_found(CLOSED)
    if state.status == Status.PAUSED:
        if state.pause is not None and request_id and state.pause.request_id == request_id:
            return
        raise failed_precondition("workflow is already paused.")
    step.event(WorkflowExecutionPausedEventAttributes(identity=identity, reason=reason, request_id=request_id))
    if step.task.is_scheduled:
        _fail_scheduled_task(step)


def _fail_scheduled_task(step: WorkflowStep) -> None:
    """Nobody has it yet, and nobody may get it now."""
    step.set_speculative(None)
    task = step.state.task
    if task.status == TaskStatus.TRANSIENT_SCHEDULED:
        step.note(notes.TransientTaskFailed(int(_BEFORE_START), None))
    elif task.status == TaskStatus.SCHEDULED:
        step.event(
            WorkflowTaskFailedEventAttributes(scheduled_event_id=task.scheduled_event_id, cause=_BEFORE_START, identity=SERVER_IDENTITY)
        )


def unpause(step: WorkflowStep, *, identity: str, reason: str, request_id: str) -> None:
    """Let the run go on. Raises ApiError when it is closed or not paused."""
    if not step.state.is_open:
        raise not_found(CLOSED)
    if step.state.status != Status.PAUSED:
        raise failed_precondition("workflow is not paused.")
    step.event(WorkflowExecutionUnpausedEventAttributes(identity=identity, reason=reason, request_id=request_id))
    schedule_task(step)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED)
def _paused(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_execution_paused_event_attributes
    state.status = Status.PAUSED
    state.pause = WorkflowPause(timestamp_ns(event.event_time), attributes.identity, attributes.reason, attributes.request_id)
    _change_activities(state, touch)
    refresh_pause_info(state)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED)
def _unpaused(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.status = Status.RUNNING
    state.pause = None
    state.task.alike = 0  # it gets as many tries as before
    _change_activities(state, touch)
    refresh_pause_info(state)


def _change_activities(state: WorkflowState, touch: Touch) -> None:
    """What was handed to the queues before is stale, and what waits is to be handed over again (or not at all)."""
    for activity in state.activities.values():
        activity.stamp += 1
        activity.exempt = False
        touch(activity)
