"""Limits of a run as a whole, looked at whenever it has grown."""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from perdure.features.workflow.step import WorkflowStep

SERVER_IDENTITY = "history-service"


def enforce(step: WorkflowStep) -> None:
    """End the workflow task that lets too many events pile up behind it; end a run whose history nobody could replay any more."""
    from perdure.features.workflow.run.closing import terminate
    from perdure.features.workflow.task.lifecycle import fail_task, schedule_task

    state, limits = step.state, step.limits
    if not state.is_open:
        return
    buffer = state.buffer
    if buffer and (len(buffer) > limits.buffered_events or sum(e.ByteSize() for e in buffer) > limits.buffered_events_size_bytes):
        fail_task(step, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, SERVER_IDENTITY)
        schedule_task(step)
    if state.history_size > limits.history_size_error_bytes:
        terminate(step, "Workflow history size exceeds limit.", SERVER_IDENTITY)
    elif state.next_event_id - 1 > limits.history_count_error:
        terminate(step, "Workflow history count exceeds limit.", SERVER_IDENTITY)
