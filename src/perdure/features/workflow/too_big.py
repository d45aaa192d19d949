"""When a run has become too big to go on: too much history to be replayed, or too much that is pending to be loaded.

What callers and workers ask for is not done then: the run is terminated instead, and they are told why. What happens by itself, such as a
timer that fires, is recorded before the end.

As on the official server a history goes over a limit before it is found too big: its size is looked at when more is to be added, and its
count leaves out the events that wait for their ids.
"""

from __future__ import annotations

from perdure.core.errors import ApiError, invalid_argument
from perdure.engine.partition import Refused
from perdure.engine.transaction import Transaction
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.step import WorkflowStep

PART_BYTES = 250
ID_BYTES = 40
"""What a pending part (a timer, a child) and a request id are taken to need: too little to be counted one by one."""


def excess(step: WorkflowStep) -> str:
    """Why the run must not go on with what the step has decided, as its end will say; "" when it may."""
    state, limits = step.state, step.limits
    if not state.is_open:
        return ""
    if step.history_size > limits.history_size_error_bytes:
        return "Workflow history size exceeds limit."
    if state.next_event_id - 1 > limits.history_count_error:
        return "Workflow history count exceeds limit."
    if _size(step) > limits.mutable_state_size_error_bytes:
        return "Workflow mutable state size exceeds limit."
    return ""


def _size(step: WorkflowStep) -> int:
    """About how many bytes the official server would store for the run beside its history."""
    state = step.state
    parts = len(state.timers) + len(state.children) + len(state.external_signals) + len(state.external_cancels)
    ids = len(state.updates) + len(state.completed_updates) + len(state.signal_request_ids) + len(state.request_ids)
    waiting = sum(event.ByteSize() for event in step.waiting_events)
    return state.activity_bytes + waiting + PART_BYTES * parts + ID_BYTES * ids + len(state.memo_bytes) + len(state.search_attributes_json)


def refuse_excess(step: WorkflowStep) -> None:
    """Called at the end of a decision. Raises Refused when the run must not go on with what was decided."""
    if not step.has_changes:
        return
    step.size_is_checked = True
    reason = excess(step)
    if not reason:
        return

    def instead(transaction: Transaction) -> ApiError:
        assert transaction.run is not None
        again = transaction.step(transaction.run)
        assert isinstance(again, WorkflowStep)
        if again.state.is_open:
            terminate(again, reason, SERVER_IDENTITY)
        return invalid_argument(reason)

    raise Refused(instead)
