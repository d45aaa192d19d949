"""Compares what is in the store at the end with what clients and workers were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History, HistoryEvent

from perdure.core.clock import SECOND, duration_ns, timestamp_ns
from perdure.core.execution import Kind, all_jobs
from perdure.engine.loader import fold
from perdure.store.protocol import Header, Store
from perdure.testing.inspector import header_problem
from perdure.testing.simulator.auditor import Auditor, fingerprint
from perdure.testing.simulator.lineage import Lineage
from perdure.testing.simulator.messages import MessageAudit
from perdure.testing.simulator.programs import Program, value_of
from perdure.testing.simulator.replay import ended_by
from perdure.testing.simulator.resets import ResetAudit, option_keys
from perdure.testing.simulator.successions import SuccessionAudit

E = EventType

CLOSES: Mapping[int, int] = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: 2,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: 3,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: 4,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: 5,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: 6,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: 7,
}
LATE = SECOND
"""A timer may fire so late, nanoseconds."""


class Audit:
    """One look at a store in which everything has ended. Problems are reported to the auditor."""

    def __init__(self, auditor: Auditor, store: Store, kind: Kind[Any, Any]) -> None:
        self._auditor = auditor
        self._store = store
        self._kind = kind
        self._histories: dict[str, Sequence[HistoryEvent]] = {}
        self._headers: list[Header] = []
        #: Run id → the run that was current before it.
        self._previous: dict[str, str] = {}

    async def run(self, namespace_id: str) -> int:
        """Returns the number of workflow runs."""
        after: tuple[int, int] | None = None
        while page := await self._store.list_headers(namespace_id, self._kind.name, after=after):
            self._headers.extend(page)
            after = (page[-1].start_at, page[-1].uid)
        self._headers.sort(key=lambda header: (header.business_id, header.uid))
        for header in self._headers:
            self._histories[header.run_id] = await self._history(header)
        self._lineage = Lineage(self._histories)
        for header in self._headers:
            self._look_at_run(header, self._histories[header.run_id])
        by_run_id = {header.run_id: header for header in self._headers}
        # Not in the order of their times, nor of their ids, which follow the clock: that may have been set back.
        pairs = ((by_run_id.get(self._previous[header.run_id]), header) for header in self._headers)
        self._neighbours = [(previous, header) for previous, header in pairs if previous is not None]
        self.messages = MessageAudit(self._lineage, self._auditor.doomed_ids)
        self._look_at_chains()
        self._look_at_starts()
        auditor = self._auditor
        resets = ResetAudit(auditor, self._lineage, self._neighbours)
        successions = SuccessionAudit(self._lineage, self._previous, auditor.doomed, auditor.punctual_after, LATE)
        for problem in (*self.messages.problems(), *resets.problems(), *successions.problems()):
            self._auditor.fail(problem)
        self._look_at_signals()
        self._look_at_updates()
        self._look_at_options()
        for run_id in self._auditor.deleted & self._histories.keys():
            self._auditor.fail(f"run {run_id} was reported deleted, and is there")
        for run_id in self._auditor.seen_events.keys() - self._histories.keys() - self._auditor.doomed:
            self._auditor.fail(f"run {run_id} was shown to somebody, and does not exist")
        return len(self._headers)

    async def _history(self, header: Header) -> Sequence[HistoryEvent]:
        kind = self._kind
        state = kind.new_state()
        events = b""
        for row in await self._store.read_journal(header.uid):
            fold(kind, state, row)
            events += row.events
        for side in await self._store.read_side(header.uid):
            kind.apply_side(state, side.name, side.data, lambda part: None)
        if problem := header_problem(header, set(all_jobs(kind, state))):
            self._auditor.fail(f"{_name(header)} in the store: {problem}")
        self._previous[header.run_id] = state.previous_run_id
        visible = kind.visible(state)
        if (visible.status, visible.close_at) != (header.status, header.close_at):
            self._auditor.fail(f"{_name(header)}: the header shows {header.status}, the journal says {visible.status}")
        return History.FromString(events).events

    # -- run by run -------------------------------------------------------------------------------------
    def _look_at_run(self, header: Header, history: Sequence[HistoryEvent]) -> None:
        fail, where = self._auditor.fail, _name(header)
        if [event.event_id for event in history] != list(range(1, len(history) + 1)):
            fail(f"{where}: event ids {[event.event_id for event in history]}")
        closes = [event.event_type for event in history if event.event_type in CLOSES]
        if not closes and self._waits_in_vain(header.run_id, history):
            return
        if not closes:
            fail(f"{where}: has not ended; {len(history)} events, last {E.Name(history[-1].event_type)}")
            return
        if len(closes) > 1 or history[-1].event_type not in CLOSES:
            fail(f"{where}: closed {len(closes)} times, last event {E.Name(history[-1].event_type)}")
        if header.status != CLOSES[closes[0]]:
            fail(f"{where}: status {header.status}, closing events {closes}")
        for event_id, data in self._auditor.seen_events[header.run_id].items():
            if event_id > len(history) or fingerprint(history[event_id - 1]) != data:
                fail(f"{where}: event {event_id} was shown to somebody, and is not what history holds")
        ended = Counter(begun for event in history if (begun := ended_by(event)) is not None)
        for begun, count in ended.items():
            if count > 1:
                fail(f"{where}: what began with event {begun} ended {count} times")
        self._look_at_times(where, history)
        self._look_at_family(where, history)

    def _waits_in_vain(self, run_id: str, history: Sequence[HistoryEvent]) -> bool:
        """Children tell the run that began them, which passes it on to the run that it was reset to: not if it was deleted."""
        begun = {event.event_id for event in history if event.event_type == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED}
        return not self._lineage.is_whole(run_id) and not begun <= {ended_by(event) for event in history}

    def _look_at_times(self, where: str, history: Sequence[HistoryEvent]) -> None:
        """Timers fire when they are due: whatever was forgotten in memory would fire late, when somebody happens to look."""
        punctual_after = self._auditor.punctual_after
        paused = any(event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED for event in history)
        due: dict[int, int] = {}
        for event in history:
            at = timestamp_ns(event.event_time)
            if event.event_type == E.EVENT_TYPE_TIMER_STARTED:
                due[event.event_id] = at + duration_ns(event.timer_started_event_attributes.start_to_fire_timeout)
            elif event.event_type == E.EVENT_TYPE_TIMER_FIRED:
                late = at - due[event.timer_fired_event_attributes.started_event_id]
                if at - late > punctual_after and not paused and not 0 <= late <= LATE:
                    self._auditor.fail(f"{where}: the timer of event {event.event_id} fired {late / SECOND:.3f} s late")

    def _look_at_family(self, where: str, history: Sequence[HistoryEvent]) -> None:
        """Every child was asked for by its parent, and every child that a parent has seen start is there."""
        started = history[0].workflow_execution_started_event_attributes
        parent = self._histories.get(started.parent_workflow_execution.run_id)
        if parent is not None:
            event_id = started.parent_initiated_event_id
            initiated = parent[event_id - 1] if event_id <= len(parent) else HistoryEvent()
            if initiated.start_child_workflow_execution_initiated_event_attributes.workflow_id != started.workflow_id:
                self._auditor.fail(f"{where}: its parent has not asked for it with event {event_id}")
        for event in history:
            if event.event_type == E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
                child = event.child_workflow_execution_started_event_attributes.workflow_execution
                if child.run_id not in self._histories and child.run_id not in self._auditor.doomed:
                    self._auditor.fail(f"{where}: its child {child.workflow_id}/{child.run_id} does not exist")

    # -- all together -------------------------------------------------------------------------------------
    def _token(self, header: Header) -> str:
        return value_of(self._histories[header.run_id][0].workflow_execution_started_event_attributes.input, Program).token

    def _start(self, header: Header) -> tuple[str, str, int]:
        """What tells starts apart; a parent that was reset starts the same child program again."""
        started = self._histories[header.run_id][0].workflow_execution_started_event_attributes
        return self._token(header), started.parent_workflow_execution.run_id, started.parent_initiated_event_id

    def _look_at_chains(self) -> None:
        currents: Counter[str] = Counter()
        firsts: Counter[str] = Counter()
        for header in self._headers:
            currents[header.business_id] += header.is_current
            firsts[header.business_id] += not self._previous[header.run_id]
        for previous, header in self._neighbours:
            self._look_at_neighbours(previous, header)
        twice = [run_id for run_id, count in Counter(self._previous.values()).items() if run_id and count > 1]
        if not self._auditor.doomed and (twice or any(count != 1 for count in firsts.values())):
            self._auditor.fail(f"these runs were followed by more than one: {twice}; chains begin so often: {firsts}")
        for business_id, count in currents.items():
            if count != 1 and not (count == 0 and self._auditor.doomed):
                self._auditor.fail(f"{business_id} has {count} current runs")

    def _look_at_neighbours(self, previous: Header, header: Header) -> None:
        """Two runs of which one follows the other: one at a time, and each begun by a request of its own."""
        fail, where = self._auditor.fail, _name(header)
        if previous.close_at is None or previous.close_at > header.start_at + self._auditor.set_back:
            fail(f"{where}: began before {_name(previous)} was over")
        started = self._histories[header.run_id][0].workflow_execution_started_event_attributes
        is_begun_by_request = header.run_id not in self._lineage.resets and not started.continued_execution_run_id
        # The server knows the request ids of the latest run; a request repeated after another run has come and gone starts anew.
        if is_begun_by_request and self._lineage.knows_start(previous.run_id) and self._start(header) == self._start(previous):
            fail(f"{where}: start {self._token(header)} made the run before it, too")

    def _look_at_starts(self) -> None:
        starts = {header.run_id: self._token(header) for header in self._headers}
        fail, doomed = self._auditor.fail, self._auditor.doomed
        for token, run_ids in self._auditor.runs_of_start.items():
            for run_id in run_ids - doomed:
                if starts.get(run_id) != token:
                    fail(f"start {token} was acknowledged with run {run_id}, and is lost")
        begun = set(starts.values())
        for token in self._auditor.refused_starts & begun:
            fail(f"start {token} was refused with the update that it came with, and has begun a run")
        for token in self._auditor.begun_starts - begun:
            if not doomed:
                fail(f"start {token} was reported done without the update that it came with, and is lost")

    def _look_at_signals(self) -> None:
        fail, doomed = self._auditor.fail, self._auditor.doomed
        signals: Counter[str] = Counter()
        for header in self._headers:
            here: Counter[str] = Counter()
            inputs: dict[str, bytes] = {}
            for event in self._histories[header.run_id]:
                if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                    data = event.workflow_execution_signaled_event_attributes.input
                    token = value_of(data)
                    here[token] += 1
                    inputs[token] = data.SerializeToString(deterministic=True)
            for token, count in here.items():
                if count > max(1, self.messages.senders(inputs[token])):
                    fail(f"{_name(header)}: signal {token} is {count} times in its history")
            for event in self._lineage.own(header.run_id):
                if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                    signals[value_of(event.workflow_execution_signaled_event_attributes.input)] += 1
        for token, run_id in self._auditor.signals.items():
            if signals[token] != 1 and run_id not in doomed:
                fail(f"signal {token} to run {run_id} was acknowledged, and is in history {signals[token]} times")
        for token, run_id in self._auditor.signals_with_start.items():
            if not signals[token] and run_id not in doomed:
                fail(f"signal {token} was acknowledged as sent with the start of run {run_id}, and is lost")

    def _look_at_updates(self) -> None:
        accepted: Counter[tuple[str, str]] = Counter()
        completed: Counter[tuple[str, str]] = Counter()
        for run_id, history in self._histories.items():
            for event in history:
                if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                    accepted[run_id, event.workflow_execution_update_accepted_event_attributes.protocol_instance_id] += 1
                elif event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                    completed[run_id, event.workflow_execution_update_completed_event_attributes.meta.update_id] += 1
        for what, told, found in (
            ("accepted", self._auditor.accepted_updates, accepted),
            ("completed", self._auditor.completed_updates, completed),
        ):
            for update in told:
                if found[update] != 1 and update[0] not in self._auditor.doomed:
                    self._auditor.fail(f"update {update} was reported {what}, and is so in history {found[update]} times")
            for update, count in found.items():
                if count > 1:
                    self._auditor.fail(f"update {update} was {what} {count} times")
                if update[1] in self._auditor.refused_updates:
                    self._auditor.fail(f"update {update} was refused with the start that it came with, and was {what}")

    def _look_at_options(self) -> None:
        """A change of options is in history: the history of the run that was named, or of any."""
        found = {(run_id, key) for run_id, history in self._histories.items() for key in option_keys(history)}
        keys = {key for _, key in found}
        for key, run_id in self._auditor.options.items():
            is_there = (run_id, key) in found or (not run_id and key in keys)
            if not is_there and run_id not in self._auditor.doomed and (run_id or not self._auditor.doomed):
                self._auditor.fail(f"change {key} of the options of run {run_id} was acknowledged, and is lost")


def _name(header: Header) -> str:
    return f"{header.business_id}/{header.run_id}"
