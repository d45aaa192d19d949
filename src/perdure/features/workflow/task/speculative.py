"""Speculative workflow tasks: in memory only, so that an update which its validator rejects leaves no trace in history.

The rows of the table in ``task/lifecycle.py`` that are about them:

- A speculative task is scheduled for an update when no other task is pending. It has the event ids that its events would have.
- As soon as an event arrives that tells the worker something new, it becomes a normal task: its events are written, then the others get
  their ids. It still times out if nobody takes it in the time that a speculative task has.
- Completed with nothing but rejections, it is discarded, and the worker told to forget its events; completed with anything else, its
  events are written.
- When it fails or times out, its events are written first.
- With the memory it is lost; a worker that answers it then is told that there is no such task, and callers ask for their updates again.
"""

from __future__ import annotations

from temporalio.api.update.v1 import Rejection
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from perdure.core.clock import duration_ns
from perdure.features.workflow.state import SpeculativeTask, TaskStatus
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.update.metrics import count_speculative


def schedule_speculative_task(step: WorkflowStep) -> None:
    """Schedule a task that exists in memory only, unless a task is pending."""
    state = step.state
    if step.task.is_pending or state.is_paused:
        return
    step.volatile.last_serial += 1
    timeout = state.sticky_timeout if state.sticky_queue else step.limits.speculative_task_schedule_to_start_ns
    task = SpeculativeTask(
        status=TaskStatus.SPECULATIVE_SCHEDULED,
        attempt=state.task.attempt,
        scheduled_event_id=state.next_event_id,
        scheduled_at=step.now,
        original_scheduled_at=step.now,
        start_to_close_timeout=duration_ns(state.started.workflow_task_timeout),
        sticky=bool(state.sticky_queue),
        schedule_to_start_deadline=step.now + timeout,
        last_started_event_id=state.task.last_started_event_id,
        serial=step.volatile.last_serial,
    )
    step.set_speculative(task)


def can_be_discarded(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest, *, commanded: bool) -> bool:
    """Whether the started task can vanish: it changed nothing, and the worker can forget what it was shown. commanded: it has commands."""
    if step.volatile.speculative is None:
        return False
    reason = _why_written(step, request, commanded=commanded)
    count_speculative(step, reason)
    return not reason


def _why_written(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest, *, commanded: bool) -> str:
    """The official name of the reason for which the task has to stay; "" for none."""
    if commanded:
        return "worker_returned_commands"
    if request.force_create_new_workflow_task:
        return "force_create_task"
    # The last completed task's started and completed events are no news to the worker; what follows them is.
    shown = step.state.next_event_id - (step.state.task.last_started_event_id + 2)
    can_forget = request.capabilities.discard_speculative_workflow_task_with_events
    if shown > (step.limits.discarded_task_events if can_forget else 0):
        return "too_many_interleaved_events" if can_forget else "interleaved_events"
    return "" if all(message.body.Is(Rejection.DESCRIPTOR) for message in request.messages) else "update_accepted"
