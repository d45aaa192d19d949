"""Knows what must have come of everything that clients and workers were told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueResponse,
    SignalWithStartWorkflowExecutionRequest,
)

from perdure.core.clock import SECOND, duration_ns, timestamp_ns
from perdure.core.errors import ApiError, Code
from perdure.core.execution import Kind, all_jobs
from perdure.engine.loader import fold
from perdure.store.protocol import Header, Store
from perdure.testing.inspector import header_problem
from perdure.testing.simulator.programs import Program, value_of
from perdure.testing.simulator.replay import ended_by

E = EventType

CLOSES: Mapping[int, int] = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: 2,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: 3,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: 4,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: 5,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: 6,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: 7,
}
RUNNING = 1

LATE = SECOND
"""A timer may fire so late, nanoseconds."""

EXPECTED_REFUSALS = frozenset({Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION})
ENDS_ACTIVITY = frozenset({"RespondActivityTaskCompleted", "RespondActivityTaskCanceled"})
ANSWERS_TASK = ENDS_ACTIVITY | {"RespondActivityTaskFailed", "RespondWorkflowTaskCompleted", "RespondWorkflowTaskFailed"}


class Auditor:
    """Told of every answer that a living server gave, whether or not it arrived; and, at the end, shown the store."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        #: What is due later than this has to happen in time (nanoseconds since the epoch).
        self.punctual_after = 0
        self._runs_of_start: defaultdict[str, set[str]] = defaultdict(set)
        self._signals: dict[str, str] = {}
        self._signals_with_start: dict[str, str] = {}
        self._handed_out: set[tuple[str, str, int]] = set()
        self._activity_of_token: dict[bytes, tuple[str, str]] = {}
        self._ended_activities: set[tuple[str, str]] = set()
        self._answered_tokens: set[bytes] = set()
        self._workflow_tokens: set[bytes] = set()
        self._seen: defaultdict[str, dict[int, bytes]] = defaultdict(dict)

    def fail(self, problem: str) -> None:
        """Note that something is wrong."""
        self.failures.append(problem)

    # -- while it runs --------------------------------------------------------------------------------
    def answered(self, method: str, request: Any, answer: Message | ApiError) -> None:
        """The server answered a call."""
        if isinstance(answer, ApiError):
            self.answers[f"{method} {answer.code.name}"] += 1
            self._refused(method, answer)
            return
        self.answers[method] += 1
        if method in ("StartWorkflowExecution", "SignalWithStartWorkflowExecution"):
            self._started(request, answer)
        elif method == "SignalWorkflowExecution":
            self._signals[value_of(request.input)] = f"{request.workflow_execution.workflow_id}/{request.workflow_execution.run_id}"
        elif isinstance(answer, PollActivityTaskQueueResponse):
            self._handed_activity(answer)
        elif isinstance(answer, PollWorkflowTaskQueueResponse):
            self._handed_workflow_task(answer)
        if method in ANSWERS_TASK:
            self._accepted(method, request.task_token)

    def _refused(self, method: str, error: ApiError) -> None:
        if error.code in EXPECTED_REFUSALS:
            return
        if method == "RespondWorkflowTaskCompleted" and error.message == "UnhandledCommand":
            return
        self.fail(f"{method} was refused: {error!r}")

    def _started(self, request: Any, answer: Any) -> None:
        if isinstance(request, SignalWithStartWorkflowExecutionRequest):
            self._signals_with_start[value_of(request.signal_input)] = f"{request.workflow_id}/{answer.run_id}"
        if answer.started:
            self._runs_of_start[value_of(request.input, Program).token].add(answer.run_id)

    def _handed_activity(self, task: PollActivityTaskQueueResponse) -> None:
        if not task.task_token:
            return
        activity = (task.workflow_execution.run_id, task.activity_id)
        where = f"{task.workflow_execution.workflow_id}/{activity}"
        if (*activity, task.attempt) in self._handed_out:
            self.fail(f"attempt {task.attempt} of activity {where} was handed out twice")
        if activity in self._ended_activities:
            self.fail(f"activity {where} was handed out after its end was accepted")
        if 0 < task.retry_policy.maximum_attempts < task.attempt:
            self.fail(f"activity {where} has had its attempts, and got attempt {task.attempt}")
        self._handed_out.add((*activity, task.attempt))
        self._activity_of_token[task.task_token] = activity

    def _handed_workflow_task(self, task: PollWorkflowTaskQueueResponse) -> None:
        if not task.task_token:
            return
        if task.task_token in self._workflow_tokens:
            self.fail(f"a workflow task of {task.workflow_execution.workflow_id} was handed out twice")
        self._workflow_tokens.add(task.task_token)

    def _accepted(self, method: str, token: bytes) -> None:
        if token in self._answered_tokens:
            self.fail(f"{method} was accepted, but its task token had been accepted before")
        self._answered_tokens.add(token)
        if method in ENDS_ACTIVITY:
            self._ended_activities.add(self._activity_of_token[token])

    def saw(self, run_id: str, events: Sequence[HistoryEvent]) -> None:
        """Somebody was shown these events: they must never change or go away."""
        seen = self._seen[run_id]
        for event in events:
            data = event.SerializeToString(deterministic=True)
            if seen.setdefault(event.event_id, data) != data:
                self.fail(f"event {event.event_id} of run {run_id} was another one before: now {E.Name(event.event_type)}")

    # -- at the end -------------------------------------------------------------------------------------
    async def audit(self, store: Store, namespace_id: str, kind: Kind[Any, Any], *, all_closed: bool) -> int:
        """Compare the store with what was promised; returns the number of runs. all_closed: nothing may be running any more."""
        headers: list[Header] = []
        while page := await store.list_headers(namespace_id, kind.name, after=(headers[-1].start_at, headers[-1].uid) if headers else None):
            headers.extend(page)
        starts: dict[str, str] = {}
        signals: Counter[str] = Counter()
        currents: Counter[str] = Counter()
        for header in sorted(headers, key=lambda header: (header.business_id, header.uid)):
            currents[header.business_id] += header.is_current
            history = await self._history(store, header, kind)
            self._audit_run(header, history, all_closed=all_closed)
            token = value_of(history[0].workflow_execution_started_event_attributes.input, Program).token
            # The server knows the request ids of the current run; a request that is repeated after another run has come and gone starts
            # anew.
            if starts and next(reversed(starts.values())) == token:
                self.fail(f"start {token} made two runs, one after the other: {next(reversed(starts))} and {header.run_id}")
            starts[header.run_id] = token
            self._count_signals(signals, header, history)
        self._audit_promises(starts, signals)
        for business_id, count in currents.items():
            if count != 1:
                self.fail(f"{business_id} has {count} current runs")
        return len(headers)

    def _count_signals(self, signals: Counter[str], header: Header, history: Sequence[HistoryEvent]) -> None:
        here: Counter[str] = Counter()
        for event in history:
            if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                here[value_of(event.workflow_execution_signaled_event_attributes.input)] += 1
        signals.update(here)
        for token, count in here.items():
            if count > 1:
                self.fail(f"signal {token} is {count} times in the history of {header.business_id}/{header.run_id}")

    def _audit_promises(self, starts: Mapping[str, str], signals: Counter[str]) -> None:
        for token, run_ids in self._runs_of_start.items():
            for run_id in run_ids:
                if starts.get(run_id) != token:
                    self.fail(f"start {token} was acknowledged with run {run_id}, and is lost")
        for token, where in self._signals.items():
            if signals[token] != 1:
                self.fail(f"signal {token} to {where} was acknowledged, and is in history {signals[token]} times")
        for token, where in self._signals_with_start.items():
            if not signals[token]:
                self.fail(f"signal {token} was acknowledged as sent with the start of {where}, and is lost")
        for run_id in self._seen.keys() - starts.keys():
            self.fail(f"run {run_id} was shown to somebody, and does not exist")

    def _audit_times(self, where: str, history: Sequence[HistoryEvent]) -> None:
        """Timers fire when they are due: whatever was forgotten in memory would fire late, when somebody happens to look."""
        due: dict[int, int] = {}
        for event in history:
            at = timestamp_ns(event.event_time)
            if event.event_type == E.EVENT_TYPE_TIMER_STARTED:
                due[event.event_id] = at + duration_ns(event.timer_started_event_attributes.start_to_fire_timeout)
            elif event.event_type == E.EVENT_TYPE_TIMER_FIRED:
                late = at - due[event.timer_fired_event_attributes.started_event_id]
                if self.punctual_after and at - late > self.punctual_after and not 0 <= late <= LATE:
                    self.fail(f"{where}: the timer of event {event.event_id} fired {late / SECOND:.3f} s late")

    async def _history(self, store: Store, header: Header, kind: Kind[Any, Any]) -> Sequence[HistoryEvent]:
        state = kind.new_state()
        events = b""
        for row in await store.read_journal(header.uid):
            fold(kind, state, row)
            events += row.events
        for side in await store.read_side(header.uid):
            kind.apply_side(state, side.name, side.data, lambda part: None)
        if problem := header_problem(header, set(all_jobs(kind, state))):
            self.fail(f"{header.business_id}/{header.run_id} in the store: {problem}")
        visible = kind.visible(state)
        if (visible.status, visible.close_at) != (header.status, header.close_at):
            self.fail(f"{header.business_id}/{header.run_id}: the header shows {header.status}, the journal says {visible.status}")
        return History.FromString(events).events

    def _audit_run(self, header: Header, history: Sequence[HistoryEvent], *, all_closed: bool) -> None:
        where = f"{header.business_id}/{header.run_id}"
        if [event.event_id for event in history] != list(range(1, len(history) + 1)):
            self.fail(f"{where}: event ids {[event.event_id for event in history]}")
        closes = [event.event_type for event in history if event.event_type in CLOSES]
        if len(closes) > 1 or (closes and history[-1].event_type not in CLOSES):
            self.fail(f"{where}: closed {len(closes)} times, last event {E.Name(history[-1].event_type)}")
        if header.status != (CLOSES[closes[0]] if closes else RUNNING):
            self.fail(f"{where}: status {header.status}, closing events {closes}")
        if all_closed and not closes:
            self.fail(f"{where}: has not ended; {len(history)} events, last {E.Name(history[-1].event_type)}")
        for event_id, data in self._seen[header.run_id].items():
            if event_id > len(history) or history[event_id - 1].SerializeToString(deterministic=True) != data:
                self.fail(f"{where}: event {event_id} was shown to somebody, and is not what history holds")
        self._audit_times(where, history)
        ended = Counter(begun for event in history if (begun := ended_by(event)) is not None)
        for begun, count in ended.items():
            if count > 1:
                self.fail(f"{where}: what began with event {begun} ended {count} times")
