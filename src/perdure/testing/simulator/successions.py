"""Runs that follow others by themselves, by a retry policy, a cron schedule or continue-as-new: one for each, and each knows the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from temporalio.api.enums.v1 import ContinueAsNewInitiator, EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes

from perdure.core.clock import duration_ns, timestamp_ns
from perdure.testing.simulator.lineage import Lineage

E = EventType
CRON = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
RETRY = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY

_NAMES_THE_NEXT: Mapping[int, str] = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "workflow_execution_completed_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "workflow_execution_failed_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "workflow_execution_timed_out_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "workflow_execution_continued_as_new_event_attributes",
}


class SuccessionAudit:
    """lineage: of all runs. previous: run id → the run that was current before it. doomed: runs that may have been deleted.

    punctual_after: what is due later has to happen within `late`; nanoseconds, since the epoch and at all.
    """

    def __init__(
        self, lineage: Lineage, previous: Mapping[str, str], doomed: Collection[str], punctual_after: int, late: int
    ) -> None:  # fmt: skip
        self._lineage = lineage
        self._histories = lineage.histories
        self._previous = previous
        self._doomed = doomed
        self._punctual_after = punctual_after
        self._late = late
        #: By their initiator, how many runs followed others.
        self.counts: dict[int, int] = {}

    def problems(self) -> Iterator[str]:
        """What is wrong, in words."""
        for run_id, history in self._histories.items():
            yield from self._look_forward(run_id, history)
            started = _started(history)
            if started.continued_execution_run_id and run_id not in self._lineage.resets:
                self.counts[started.initiator] = self.counts.get(started.initiator, 0) + 1
                yield from self._look_back(run_id, started)
                yield from self._look_at_backoff(run_id, history, duration_ns(started.first_workflow_task_backoff))

    def _look_forward(self, run_id: str, history: Sequence[HistoryEvent]) -> Iterator[str]:
        next_run_id, close, started = _next_of(history), history[-1].event_type, _started(history)
        has_ended_by_itself = close in (E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED)
        has_attempts = started.attempt < started.retry_policy.maximum_attempts and not started.HasField("workflow_execution_timeout")
        is_due = has_ended_by_itself and (started.cron_schedule or (close == E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED and has_attempts))
        if is_due and not next_run_id:
            yield f"run {run_id} ended with {E.Name(close)}, and no run followed it"
        if next_run_id and next_run_id not in self._doomed:
            following = self._histories.get(next_run_id)
            if following is None:
                yield f"run {run_id} says that run {next_run_id} follows it, which does not exist"
            elif _started(following).continued_execution_run_id != run_id:
                yield f"run {next_run_id} does not know that it follows run {run_id}"

    def _look_back(self, run_id: str, started: WorkflowExecutionStartedEventAttributes) -> Iterator[str]:
        before_id = started.continued_execution_run_id
        if self._previous[run_id] != before_id:
            yield f"run {run_id} follows run {before_id}, but run {self._previous[run_id]} came before it"
        history = self._histories.get(before_id)
        if history is None:
            if before_id not in self._doomed:
                yield f"run {run_id} follows run {before_id}, which does not exist"
            return
        before = _started(history)
        if _next_of(history) != run_id:
            yield f"run {run_id} follows run {before_id}, which names {_next_of(history) or 'none'}"
        if started.first_execution_run_id != before.first_execution_run_id:
            yield f"run {run_id} and the one before do not name the same first run of their chain"
        most = started.retry_policy.maximum_attempts
        if started.initiator == RETRY and not before.attempt + 1 == started.attempt <= most:
            yield f"run {run_id} is attempt {started.attempt} of {most}; the one before was {before.attempt}"
        if started.initiator in (RETRY, CRON) and (started.cron_schedule, started.input) != (before.cron_schedule, before.input):
            yield f"run {run_id} does something else than run {before_id}, which it repeats"

    def _look_at_backoff(self, run_id: str, history: Sequence[HistoryEvent], backoff: int) -> Iterator[str]:
        """The first task comes when the backoff is over, unless a signal with start has ended it."""
        due = timestamp_ns(history[0].event_time) + backoff
        first = next((event for event in history if event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED), None)
        if first is None or not backoff:
            return
        at = timestamp_ns(first.event_time)
        is_early = at < due and not any(event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED for event in history[: first.event_id])
        if due > self._punctual_after and (is_early or at > due + self._late):
            yield f"run {run_id} was to begin at {due}, and began at {at}"


def _started(history: Sequence[HistoryEvent]) -> WorkflowExecutionStartedEventAttributes:
    return history[0].workflow_execution_started_event_attributes


def _next_of(history: Sequence[HistoryEvent]) -> str:
    """The id of the run that follows, as the last event says; "" for none."""
    field = _NAMES_THE_NEXT.get(history[-1].event_type)
    return getattr(history[-1], field).new_execution_run_id if field is not None else ""
