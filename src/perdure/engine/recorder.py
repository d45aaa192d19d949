"""What becomes of a transaction that was decided: rows and headers for the writer, jobs for the agenda, effects for later."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Protocol

from perdure.core.clock import Clock
from perdure.core.execution import all_jobs
from perdure.core.jobs import Job
from perdure.core.step import AnyStep
from perdure.engine.agenda import Agenda
from perdure.engine.cache import Cache
from perdure.engine.live import AnyExecution, Chain
from perdure.engine.loader import fill_header
from perdure.engine.timers import Timers
from perdure.engine.trailing import Trailing
from perdure.engine.transaction import Transaction
from perdure.engine.writer import Group, Writer
from perdure.store.protocol import JournalRow, SideRow, Snapshot

TAIL_BYTES = 64 * 1024
"""History kept in memory per execution; enough for the next worker task of nearly every workflow, older events come from the store."""

HOT_SNAPSHOT_ROWS = 512
HOT_SNAPSHOT_BYTES_PER_ROW = 2048
"""One that stays in memory gets a snapshot after so many rows, and one row more for so many bytes of its state: a server that died need not
read 50,000 events, and the snapshots of a large state cost each row no more than those of a small one."""


class Inspector(Protocol):
    """Looks at every step, in tests and in the simulator. Must not raise."""

    def loaded(self, execution: AnyExecution) -> None:
        """An execution came into memory."""
        ...

    def evicted(self, execution: AnyExecution) -> None:
        """An execution is about to leave memory; all of it is durable."""
        ...

    def forked(self, execution: AnyExecution, rows: Sequence[JournalRow]) -> None:
        """An execution was created whose journal begins with rows of another one's; its first step follows."""
        ...

    def stepped(self, execution: AnyExecution, row: JournalRow | None, side: Mapping[str, bytes | None]) -> None:
        """A step was applied: its journal row (None: it changed side data only), and the side data it wrote."""
        ...

    def volatile_changed(self, execution: AnyExecution) -> None:
        """A step has changed what an execution has in memory only."""
        ...


class Recorder:
    """Gives the writer of a partition what its transactions have recorded."""

    def __init__(self, clock: Clock, writer: Writer, cache: Cache, timers: Timers, agenda: Agenda) -> None:
        self._writer = writer
        self._cache = cache
        self._timers = timers
        self._agenda = agenda
        self.trailing = Trailing(clock, self._catch_up)
        #: Set in tests and in the simulator.
        self.inspector: Inspector | None = None

    def hand_over(self, transaction: Transaction) -> Group | None:
        """Give a transaction's records to the writer. None: it recorded nothing."""
        for step in transaction.steps.values():
            step.finish()
        # Encoded before anything else is changed: what cannot be written fails here, and is undone as a whole.
        changed: list[tuple[AnyExecution, AnyStep, bytes]] = []
        volatile: list[tuple[AnyExecution, AnyStep]] = []
        for uid, step in transaction.steps.items():
            if step.has_records:
                execution = transaction.executions[uid]
                changed.append((execution, step, execution.kind.notes.encode(step.notes)))
            if step.volatile_changed:
                volatile.append((transaction.executions[uid], step))
        if len(changed) == 1 and changed[0][1].may_trail and not self._writer.is_fenced:
            self._let_trail(transaction, *changed[0])
            return None
        if not changed:
            self.catch_up(transaction.chain)
            for execution, step in volatile:
                self._show_volatile(execution, step, execution.group)
            self._perform_after(transaction.chain.group, transaction.effects)
            return None
        group = self._writer.open_group()
        for uid in transaction.superseded:
            group.commit.superseded.append(uid)
            if uid in group.headers:
                group.headers[uid].is_current = False
        if transaction.created:
            self._cache.chains[transaction.key] = transaction.chain
        for execution, step, notes in changed:
            self._copy_rows(group, execution, transaction.copied.get(execution.uid, ()))
            self._record(group, execution, step, notes, created=execution.uid in transaction.created)
        self.catch_up(transaction.chain)
        for execution, step in volatile:
            self._show_volatile(execution, step, group)
        transaction.chain.group = group
        group.effects.extend(transaction.effects)
        return group

    def _perform_after(self, group: Group | None, effects: list[Callable[[], None]]) -> None:
        """group: what has to become durable first, None when everything is."""
        if group is not None:
            group.effects.extend(effects)
        else:
            for effect in effects:
                effect()

    def _let_trail(self, transaction: Transaction, execution: AnyExecution, step: AnyStep, notes: bytes) -> None:
        """Keep a step's records back until the execution changes again; see :mod:`perdure.engine.trailing`."""
        row = self._append(execution, step, notes)
        jobs = [job for part in step.touched.values() for job in part.jobs(execution.state)]
        self.trailing.add(execution, row, jobs)
        self._agenda.schedule(execution, jobs, execution.group)
        self._perform_after(execution.group, [*step.effects, *transaction.effects])
        self._cache.touch(execution)
        if self.inspector is not None:
            self.inspector.stepped(execution, row, step.side)
        if step.volatile_changed:
            self._show_volatile(execution, step, execution.group)
        if execution.is_awaited(row.first_event_id + row.event_count - 1):
            self._catch_up(execution)

    def catch_up(self, chain: Chain) -> None:
        """Nothing of this chain trails any more: somebody is about to be told of it, or more is about to be built upon it."""
        for execution in chain.runs.values():
            if execution.trail is not None:
                self._catch_up(execution)

    def save_trailing(self, chain: Chain, undone: Container[int]) -> None:
        """Write what trails behind a chain that is about to leave memory. undone: uids of runs whose state shows what has not happened."""
        for execution in chain.runs.values():
            if execution.trail is not None:
                self._catch_up(execution, is_undone=execution.uid in undone)

    def _catch_up(self, execution: AnyExecution, *, is_undone: bool = False) -> None:
        if execution.dropped or self._writer.is_fenced:
            self.trailing.take(execution)
            return
        group = self._writer.open_group()
        jobs = self._add_trailing(group, execution)
        group.add_execution(execution)
        execution.group = self._cache.chains[execution.chain_key].group = group
        if not is_undone:
            self._write_header(group, execution, jobs, created=False)
        elif not execution.header.ready:
            # The state cannot say what the header has to lead back to.
            execution.header.ready = True
            group.add_header(execution.header.copy())

    def _add_trailing(self, group: Group, execution: AnyExecution) -> list[Job]:
        """Nothing trails any more; returns the jobs that the header has to lead back to with it."""
        trail = self.trailing.take(execution)
        if trail is None:
            return []
        for row in trail.rows:
            group.add_row(row)
        return trail.jobs

    def _show_volatile(self, execution: AnyExecution, step: AnyStep, group: Group | None) -> None:
        """What changed in memory only shows its effects, and wakes who waits, once what it was decided upon is durable.

        group: what has to become durable first, None when everything is.
        """
        jobs = [job for part in step.touched_volatile.values() for job in part.jobs(execution.state)]
        self._agenda.schedule(execution, jobs, group)
        if group is None:
            execution.announce()
        else:
            group.effects.append(execution.announce)
        if self.inspector is not None:
            self.inspector.volatile_changed(execution)

    def _copy_rows(self, group: Group, execution: AnyExecution, rows: Sequence[JournalRow]) -> None:
        """Begin the journal of a run that was forked from another one."""
        for row in rows:
            group.add_row(row)
            execution.remember(row, TAIL_BYTES)
            execution.sequence = row.sequence
        if rows and self.inspector is not None:
            self.inspector.forked(execution, rows)

    def _record(self, group: Group, execution: AnyExecution, step: AnyStep, notes: bytes, *, created: bool) -> None:
        row: JournalRow | None = None
        trailing_jobs = self._add_trailing(group, execution) if execution.trail is not None else []
        if step.event_count or step.notes:
            row = self._append(execution, step, notes)
            group.add_row(row)
        for name, data in step.side.items():
            group.add_side(SideRow(execution.uid, name, data))
        execution.group = group
        group.add_execution(execution)
        group.effects.extend(step.effects)
        jobs = [job for part in step.touched.values() for job in part.jobs(execution.state)]
        self._write_header(group, execution, [*trailing_jobs, *jobs], created=created)
        self._agenda.schedule(execution, jobs, group)
        self._cache.touch(execution)
        if execution.sequence - execution.snapshot_sequence >= HOT_SNAPSHOT_ROWS:
            self.write_snapshot(execution, HOT_SNAPSHOT_ROWS + execution.kind.weight(execution.state) // HOT_SNAPSHOT_BYTES_PER_ROW)
        if self.inspector is not None:
            self.inspector.stepped(execution, row, step.side)

    def _append(self, execution: AnyExecution, step: AnyStep, notes: bytes) -> JournalRow:
        """A step's records as the next row of the journal. notes: encoded."""
        execution.sequence += 1
        row = JournalRow(execution.uid, execution.sequence, step.first_event_id, step.event_count, step.events, notes)
        execution.remember(row, TAIL_BYTES)
        return row

    def _write_header(self, group: Group, execution: AnyExecution, new_jobs: list[Job], *, created: bool) -> None:
        """Write the header row if what it shows changed, or if it would not lead back to the new jobs after a restart."""
        header = execution.header
        ready, wake_at = header.ready, header.wake_at
        for job in new_jobs:
            if job.at == 0:
                ready = True
            elif wake_at is None or job.at < wake_at:
                wake_at = job.at
        if header.ready:
            wake_at = header.wake_at  # it is loaded after a restart whatever its time
        shown = execution.kind.shown(execution.state)
        if shown == execution.shown and ready == header.ready and wake_at == header.wake_at and not created:
            return
        visible = execution.kind.visible(execution.state)
        execution.shown = shown if visible.is_open else None
        if not visible.is_open:
            if execution.entries:
                jobs = set(all_jobs(execution.kind, execution.state))
                self._timers.forget([entry for entry in execution.entries if entry.job not in jobs])
                execution.entries = [entry for entry in execution.entries if entry.run is not None]
            # One of many is enough to know, after each of the many steps that work them off.
            parts = execution.kind.parts(execution.state)
            ready = any(job.at == 0 for part in parts for job in part.jobs(execution.state))
            wake_at = None if ready else min((job.at for job in all_jobs(execution.kind, execution.state)), default=None)
        if fill_header(header, visible, ready, wake_at) or created:
            header.state_transitions = execution.sequence
            group.add_header(header.copy())

    def write_snapshot(self, execution: AnyExecution, after_rows: int) -> None:
        """Spare the next load the reading of a long journal. Losing a snapshot costs time only."""
        if execution.sequence - execution.snapshot_sequence < after_rows or self._writer.is_fenced:
            return
        execution.snapshot_sequence = execution.sequence
        data = execution.kind.encode_state(execution.state)
        snapshot = Snapshot(execution.uid, execution.sequence, execution.kind.snapshot_version, data)
        self._writer.open_group().commit.snapshots.append(snapshot)
