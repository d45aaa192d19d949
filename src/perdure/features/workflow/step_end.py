"""How every step of a run ends: what waits gets its ids, and limits of the run as a whole are looked at."""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.completion_pages import forget_old_pages
from perdure.features.workflow.task.lifecycle import fail_task, make_normal, schedule_task
from perdure.features.workflow.too_big import excess


class EndingStep(WorkflowStep):
    """A step that the engine makes. Decisions know it as a :class:`WorkflowStep`: its end needs the concerns that need the step."""

    def finish(self) -> None:
        """At the end of the step: number what waits, or, while a task runs, put it into the buffer.

        A task that is in memory only becomes a normal one first: what waits was decided while it was there, so it has to come after it.
        """
        state, waiting = self.state, self._waiting
        reason = excess(self) if self.has_changes and not self.size_is_checked else ""
        if waiting and self.volatile.speculative is not None:
            make_normal(self)
        if waiting or state.buffer:
            if self.task.is_started or not state.is_open:
                self.hold_back()
            else:
                self.flush()
        if waiting and state.buffer and state.is_open:
            _keep_buffer_small(self)
        if reason and state.is_open:
            terminate(self, reason, SERVER_IDENTITY)
        self.may_trail = self.may_trail and state.is_open
        forget_old_pages(self)


def _keep_buffer_small(step: WorkflowStep) -> None:
    """End the workflow task that lets too many events pile up behind it."""
    buffer, limits = step.state.buffer, step.limits
    if len(buffer) > limits.buffered_events or sum(event.ByteSize() for event in buffer) > limits.buffered_events_size_bytes:
        fail_task(step, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, SERVER_IDENTITY)
        schedule_task(step)
