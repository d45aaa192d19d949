"""Which runs were made by resets, from which runs, and which of their events happened to them and which they took over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

from perdure.core.clock import timestamp_ns

E = EventType
RESET = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW


def is_reset(event: HistoryEvent) -> bool:
    """Whether a history goes on from here after a reset."""
    return event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_FAILED and event.workflow_task_failed_event_attributes.cause == RESET


@dataclass(frozen=True, slots=True)
class Reset:
    """How a run came to be. token: the reason that was given. at: when, nanoseconds since the epoch.

    first: the first event that is not of the base run. last: the last one that the reset itself wrote.
    """

    token: str
    base_run_id: str
    at: int
    first: int
    last: int


def reset_of(run_id: str, history: Sequence[HistoryEvent]) -> Reset | None:
    """The reset that made a run; None when none did."""
    for index, event in enumerate(history):
        attributes = event.workflow_task_failed_event_attributes
        if not is_reset(event) or attributes.new_run_id != run_id:
            continue
        at = timestamp_ns(event.event_time)
        first = last = index
        while first and timestamp_ns(history[first - 1].event_time) == at:
            first -= 1
        while last + 1 < len(history) and timestamp_ns(history[last + 1].event_time) == at:
            last += 1
        return Reset(attributes.failure.message, attributes.base_run_id, at, first + 1, last + 1)
    return None


class Lineage:
    """Of all runs. histories: run id → history."""

    def __init__(self, histories: Mapping[str, Sequence[HistoryEvent]]) -> None:
        self.histories = histories
        found = ((run_id, reset_of(run_id, history)) for run_id, history in histories.items())
        self.resets = {run_id: reset for run_id, reset in found if reset is not None}

    def origin(self, run_id: str, event_id: int) -> tuple[str, int]:
        """The run to which an event of this run really happened; its id is the same there."""
        reset = self.resets.get(run_id)
        while reset is not None and event_id < reset.first:
            run_id = reset.base_run_id
            reset = self.resets.get(run_id)
        return run_id, event_id

    def is_whole(self, run_id: str) -> bool:
        """Whether all the runs from which the run was made are there; otherwise nobody knows what else they did."""
        while (reset := self.resets.get(run_id)) is not None:
            run_id = reset.base_run_id
        return run_id in self.histories

    def own(self, run_id: str) -> Iterator[HistoryEvent]:
        """The events that happened to this run itself: neither copied from another one nor happening again after a reset."""
        reset = self.resets.get(run_id)
        last = reset.last if reset is not None else 0
        return (event for event in self.histories[run_id] if event.event_id > last)

    def knows_start(self, run_id: str) -> bool:
        """Whether the run knows the request that started it: it was not begun by the server itself."""
        while (reset := self.resets.get(run_id)) is not None:
            run_id = reset.base_run_id
        history = self.histories.get(run_id)
        return history is not None and not history[0].workflow_execution_started_event_attributes.continued_execution_run_id
