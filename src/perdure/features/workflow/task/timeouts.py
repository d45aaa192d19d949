"""A workflow task times out: nobody has taken it from the sticky queue, or its worker has not answered."""

from __future__ import annotations

from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.history.v1 import WorkflowTaskTimedOutEventAttributes

from perdure.core.jobs import decides
from perdure.features.workflow import notes
from perdure.features.workflow.jobs import SpeculativeTaskTimeout, WorkflowTaskTimeout
from perdure.features.workflow.state import TaskStatus
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task, write_task_events
from perdure.features.workflow.task.problems import handle_problem


@decides(WorkflowTaskTimeout)
def time_out_task(step: WorkflowStep, job: WorkflowTaskTimeout) -> None:
    time_out(step, started=job.started)


def time_out(step: WorkflowStep, *, started: bool) -> None:
    """The worker was too slow: try again. started: to answer the task, not to take it."""
    task = step.state.task
    if task.status == TaskStatus.TRANSIENT_STARTED:
        step.note(notes.TransientTaskTimedOut())
    else:
        timeout = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE if started else TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
        started_event_id = task.started_event_id if started else 0
        step.event(
            WorkflowTaskTimedOutEventAttributes(
                scheduled_event_id=task.scheduled_event_id, started_event_id=started_event_id, timeout_type=timeout
            )
        )
    if started:
        handle_problem(step)
    schedule_task(step)


@decides(SpeculativeTaskTimeout)
def time_out_speculative_task(step: WorkflowStep, job: SpeculativeTaskTimeout) -> None:
    write_task_events(step)
    time_out(step, started=job.started)
