"""A workflow task that was handed out and never left the server: its worker had gone. It has not begun, so nothing has failed.

| from                  | to                    | record                                                                     |
|-----------------------|-----------------------|----------------------------------------------------------------------------|
| STARTED, not written  | SCHEDULED             | nothing: the start is forgotten, see :mod:`perdure.engine.trailing`        |
| STARTED, written      | NONE, same attempt    | note, WORKFLOW_TASK_TIMED_OUT: history has no other way back               |
| TRANSIENT_STARTED     | TRANSIENT_SCHEDULED   | note                                                                       |
| SPECULATIVE_STARTED   | SPECULATIVE_SCHEDULED | nothing (memory only)                                                      |
"""

from __future__ import annotations

from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.history.v1 import WorkflowTaskTimedOutEventAttributes

from perdure.core.execution import Touch
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.state import TaskStatus, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task
from perdure.features.workflow.task.speculative import schedule_speculative_task


def take_back(step: WorkflowStep) -> None:
    """Let another worker have the started task, now and not when the time for it is over."""
    task = step.task
    if task.status == TaskStatus.SPECULATIVE_STARTED:
        step.set_speculative(None)
        schedule_speculative_task(step)
        return
    step.note(notes.TaskTakenBack())
    if task.status == TaskStatus.STARTED:
        step.event(
            WorkflowTaskTimedOutEventAttributes(
                scheduled_event_id=task.scheduled_event_id, started_event_id=task.started_event_id,
                timeout_type=TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
            )
        )  # fmt: skip
        schedule_task(step)


@applies_note(notes.TaskTakenBack)
def _taken_back(state: WorkflowState, note: notes.TaskTakenBack, touch: Touch) -> None:
    task = state.task
    if task.status == TaskStatus.STARTED:
        task.taken_back = True
        return
    task.status = TaskStatus.TRANSIENT_SCHEDULED
    task.started_event_id = task.started_at = 0
    task.request_id = task.identity = ""
    task.worker_version = None
    touch(task)
