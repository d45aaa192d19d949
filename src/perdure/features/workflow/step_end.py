"""How every step of a run ends: what waits gets its ids, and limits of the run as a whole are looked at."""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from perdure.features.workflow import notes
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import fail_task, schedule_task, write_task_events
from perdure.features.workflow.update.metrics import count_speculative

PART_BYTES = 250
ID_BYTES = 40
"""What a pending part (a timer, a child) and a request id are taken to need: too little to be counted one by one."""


class EndingStep(WorkflowStep):
    """A step that the engine makes. Decisions know it as a :class:`WorkflowStep`: its end needs the concerns that need the step."""

    def finish(self) -> None:
        """At the end of the step: number what waits, or, while a task runs, put it into the buffer.

        What a worker caused in the very task that closed the run (it canceled an activity, then completed) stays in the buffer: history
        ends with the close.

        A task that is in memory only becomes a normal one first: what waits was decided while it was there, so it has to come after it.
        """
        state, waiting = self.state, self._waiting
        if waiting and self.volatile.speculative is not None:
            count_speculative(self, "close_transaction")
            write_task_events(self)
        if waiting or state.buffer:
            if self.task.is_started or not state.is_open:
                for event in waiting:
                    self.notes.append((self.event_count, notes.EventBuffered(event)))
                    state.buffer.append(event)
                self._waiting = []
            else:
                self.flush()
        if self.has_records:
            _enforce_limits(self)
        self.may_trail = self.may_trail and state.is_open


def _enforce_limits(step: WorkflowStep) -> None:
    """End the workflow task that lets too many events pile up behind it; end a run that has become too big to be replayed or loaded."""
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
    elif _size(state) > limits.mutable_state_size_error_bytes:
        terminate(step, "Workflow mutable state size exceeds limit.", SERVER_IDENTITY)


def _size(state: WorkflowState) -> int:
    """About how many bytes the official server would store for the run beside its history."""
    parts = len(state.timers) + len(state.children) + len(state.external_signals) + len(state.external_cancels)
    ids = len(state.updates) + len(state.completed_updates) + len(state.signal_request_ids) + len(state.request_ids)
    buffered = sum(event.ByteSize() for event in state.buffer)
    return state.activity_bytes + buffered + PART_BYTES * parts + ID_BYTES * ids + len(state.memo_bytes) + len(state.search_attributes_json)
