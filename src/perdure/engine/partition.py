"""A partition: one engine with its writer, the owner of a range of slots.

The path of an intent: load what it addresses (may await), decide and apply (never awaits), hand the records to the writer, wait until they
are durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from perdure.core.clock import Clock
from perdure.core.errors import ApiError
from perdure.core.execution import ChainKey, Kind, RunKey, all_jobs
from perdure.core.ids import IdSource
from perdure.core.jobs import EffectJob, Job, PureJob
from perdure.core.step import AnyStep
from perdure.engine.agenda import Agenda, Effects
from perdure.engine.cache import MOST_LOOKED_AT, Cache
from perdure.engine.live import AnyExecution
from perdure.engine.loader import Loader, fill_header
from perdure.engine.tenure import Tenure
from perdure.engine.timers import Timers
from perdure.engine.transaction import Transaction
from perdure.engine.writer import CommitObserver, Group, Writer
from perdure.store.protocol import Header, JournalRow, Lease, SideRow, Snapshot, Store

log = logging.getLogger(__name__)

R = TypeVar("R")
Decide = Callable[[Transaction], R]

TAIL_BYTES = 64 * 1024
"""History kept in memory per execution; enough for the next worker task of nearly every workflow, older events come from the store."""


SNAPSHOT_ROWS = 64
"""An execution that leaves memory with so many journal rows since its last snapshot gets a new one. Folding a row costs about as much as
decoding a hundredth of a state."""

HOT_SNAPSHOT_ROWS = 512
HOT_SNAPSHOT_BYTES_PER_ROW = 2048
"""One that stays in memory gets a snapshot after so many rows, and one row more for so many bytes of its state: a server that died need not
read 50,000 events, and the snapshots of a large state cost each row no more than those of a small one."""


FAILED_JOB_RETRY_SECONDS = 10.0
"""A job whose decision fails is a bug of ours; it is tried again so much later, in case the state has moved on."""


class Inspector(Protocol):
    """Looks at every step, in tests and in the simulator. Must not raise."""

    def loaded(self, execution: AnyExecution) -> None:
        """An execution came into memory."""
        ...

    def forked(self, execution: AnyExecution, rows: Sequence[JournalRow]) -> None:
        """An execution was created whose journal begins with rows of another one's; its first step follows."""
        ...

    def stepped(self, execution: AnyExecution, row: JournalRow | None, side: Mapping[str, bytes | None]) -> None:
        """A step was applied: its journal row (None: it changed side data only), and the side data it wrote."""
        ...


class Refused(Exception):
    """A decision that recorded something turned out to be impossible.

    The records are undone by loading the execution again from its journal; then `instead` is decided in their place.
    """

    def __init__(self, instead: Callable[[Transaction], Any]) -> None:
        super().__init__("refused")
        self.instead = instead


class Partition:
    """Owns every execution whose slot is in `slots`.

    lease: the right to write, held by the caller. effects: where effect jobs go. cache_bytes: what executions may take in memory.
    unwritten_bytes: what may wait to be committed.
    """

    def __init__(
        self, store: Store, lease: Lease, tenure: Tenure, slots: range, kinds: Mapping[str, Kind[Any, Any]], effects: Effects, clock: Clock,
        ids: IdSource, *, cache_bytes: int, unwritten_bytes: int, observer: CommitObserver | None = None,
        on_fenced: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.slots = slots
        self.tenure = tenure
        self.clock = clock
        self.ids = ids
        self.number = lease.partition
        self._store = store
        self._kinds = kinds
        self._last_uid = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._cannot_load = False
        self.timers = Timers(clock)
        self.writer = Writer(
            store,
            lease,
            clock,
            on_durable=self._on_durable,
            on_failed=self._on_failed,
            on_fenced=on_fenced,
            observer=observer,
            bound_bytes=unwritten_bytes,
        )
        self.cache = Cache(cache_bytes, self._evict, self.timers)
        self._agenda = Agenda(clock, self.timers, effects, self.run_pure, self.writer)
        self.loader = Loader(store, kinds, self.cache, self._loaded, TAIL_BYTES)
        #: Told when an execution leaves memory: its key and its next wake-up.
        self.on_evicted: Callable[[RunKey, int | None], None] = lambda key, wake_at: None
        #: Set in tests and in the simulator.
        self.inspector: Inspector | None = None

    # -- intents --------------------------------------------------------------------------------
    async def transact(self, key: ChainKey, run_id: str | None, decide: Decide[R]) -> R:
        """Apply an intent to a chain and wait until its outcome is durable.

        run_id: the run it addresses; None for the current one. decide: sync; returns the outcome, or raises ApiError to refuse; gets
        ``run`` None when there is no such run. Raises ApiError UNAVAILABLE when the store failed; then nothing of it happened; and
        RESOURCE_EXHAUSTED when too much waits to be committed.
        """
        result, group = await self.transact_early(key, run_id, decide)
        if group is not None:
            await group.wait()
        return result

    async def transact_early(self, key: ChainKey, run_id: str | None, decide: Decide[R]) -> tuple[R, Group | None]:
        """Like :meth:`transact`, but returns before the outcome is durable, with the group to wait for."""
        chain = self.loader.cached(key, run_id) or await self.loader.chain(key, run_id)
        while self.writer.is_full:
            await self.writer.room()
            chain = self.loader.cached(key, run_id) or await self.loader.chain(key, run_id)
        self.tenure.check()
        run = chain.runs.get(run_id or chain.current_run_id or "")
        transaction = Transaction(chain, run, self.clock.now(), self.ids, self._new_uid)
        depends_on = run.group if run is not None else chain.group
        chain.users += 1
        try:
            result = decide(transaction)
            return result, self._hand_over(transaction) or depends_on
        except Refused as refused:
            self._undo(transaction)
            instead = refused.instead
        except ApiError:
            self._undo(transaction)
            if depends_on is not None:
                # A refusal tells about state too: it must not tell about state that may yet be lost.
                await depends_on.wait()
            raise
        except BaseException:
            self._undo(transaction)
            raise
        finally:
            transaction.close()
            chain.users -= 1
            self.cache.trim()
        return await self.transact_early(key, run.key.run_id if run else run_id, instead)

    async def read(self, key: ChainKey, run_id: str | None) -> AnyExecution | None:
        """The run in memory (None when there is none), after everything known about it is durable. Use it before the next await.

        Raises ApiError UNAVAILABLE when the store cannot be read, or another server may have taken over.
        """
        self.cache.trim()  # whatever the calls before have brought in
        while True:
            chain = self.loader.cached(key, run_id) or await self.loader.chain(key, run_id)
            run = chain.runs.get(run_id or chain.current_run_id or "")
            group = run.group if run is not None else chain.group
            if group is None:
                self.tenure.check()
                return run
            await group.wait()

    async def delete(self, key: RunKey) -> bool:
        """Remove a run with everything that belongs to it; durable when this returns. False: there is no such run."""
        chain = await self.loader.chain(key.chain, key.run_id)
        execution = chain.runs.get(key.run_id)
        if execution is None:
            return False
        group = self.writer.open_group()
        self._delete(group, key.chain, execution.uid)
        await group.wait()
        return True

    async def delete_expired(self, headers: Sequence[Header]) -> None:
        """Remove closed runs in one commit, without bringing them into memory."""
        if not headers:
            return
        group = self.writer.open_group()
        for header in headers:
            self._delete(group, ChainKey(header.namespace_id, header.kind, header.business_id), header.uid)
        await group.wait()

    def _delete(self, group: Group, key: ChainKey, uid: int) -> None:
        group.commit.deleted.append(uid)
        group.headers.pop(uid, None)
        self.cache.settle(key, group.finished)
        chain = self.cache.chains.get(key)
        execution = chain.find(uid) if chain is not None else None
        if chain is None or execution is None:
            return
        if execution.key.run_id == chain.current_run_id:
            self._drop_chains([key])  # which run is current now, the store knows
            return
        # The others stay: what they have in memory only must not be lost with a run that ended long ago.
        self.cache.drop(execution)
        if all_jobs(execution.kind, execution.state):
            self.spawn(self._reload(execution.key))

    def run_pure(self, execution: AnyExecution, job: PureJob) -> None:
        """Apply a pure job to an execution in memory, if the state still implies it."""
        if execution.dropped or self.writer.is_fenced or not job.is_current(execution.state, execution.volatile):
            return
        chain = self.cache.chains[execution.chain_key]
        transaction = Transaction(chain, execution, self.clock.now(), self.ids, self._new_uid)
        try:
            job.decide(transaction.step(execution))
            self._hand_over(transaction)
        except Exception:
            log.exception("%s of %s failed", type(job).__name__, execution.key)
            # Its records, if any, are undone by a reload; that would try again at once, and for ever.
            self._undo(transaction, reload_after=FAILED_JOB_RETRY_SECONDS)
        finally:
            transaction.close()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something in the background; it ends with the partition."""
        if self._closing:
            coroutine.close()
            return
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- after deciding -----------------------------------------------------------------------------
    def _hand_over(self, transaction: Transaction) -> Group | None:
        """Give a transaction's records to the writer. None: it recorded nothing."""
        for step in transaction.steps.values():
            step.finish()
        changed = [(transaction.executions[uid], step) for uid, step in transaction.steps.items() if step.has_records]
        volatile = [(transaction.executions[uid], step) for uid, step in transaction.steps.items() if step.volatile_changed]
        if not changed:
            for execution, step in volatile:
                self._settle_volatile(execution, step, execution.group)
            depends_on = transaction.chain.group
            for effect in transaction.effects:
                if depends_on is not None:
                    depends_on.effects.append(effect)
                else:
                    effect()
            return None
        group = self.writer.open_group()
        for uid in transaction.superseded:
            group.commit.superseded.append(uid)
            if uid in group.headers:
                group.headers[uid].is_current = False
        if transaction.created:
            self.cache.chains[transaction.key] = transaction.chain
        for execution, step in changed:
            self._copy_rows(group, execution, transaction.copied.get(execution.uid, ()))
            self._record(group, execution, step, created=execution.uid in transaction.created)
        for execution, step in volatile:
            self._settle_volatile(execution, step, group)
        transaction.chain.group = group
        group.effects.extend(transaction.effects)
        return group

    def _settle_volatile(self, execution: AnyExecution, step: AnyStep, group: Group | None) -> None:
        """What changed in memory only shows its effects, and wakes who waits, once what it was decided upon is durable.

        group: what has to become durable first, None when everything is.
        """
        jobs = [job for part in step.touched_volatile.values() for job in part.jobs(execution.state)]
        self._agenda.schedule(execution, jobs, group)
        if group is None:
            execution.announce()
        else:
            group.effects.append(execution.announce)

    def _copy_rows(self, group: Group, execution: AnyExecution, rows: Sequence[JournalRow]) -> None:
        """Begin the journal of a run that was forked from another one."""
        for row in rows:
            group.add_row(row)
            execution.remember(row, TAIL_BYTES)
            execution.sequence = row.sequence
        if rows and self.inspector is not None:
            self.inspector.forked(execution, rows)

    def _record(self, group: Group, execution: AnyExecution, step: AnyStep, *, created: bool) -> None:
        row: JournalRow | None = None
        if step.event_count or step.notes:
            execution.sequence += 1
            notes = execution.kind.notes.encode(step.notes)
            row = JournalRow(execution.uid, execution.sequence, step.first_event_id, step.event_count, step.events, notes)
            group.add_row(row)
            execution.remember(row, TAIL_BYTES)
        for name, data in step.side.items():
            group.add_side(SideRow(execution.uid, name, data))
        execution.group = group
        group.add_execution(execution)
        group.effects.extend(step.effects)
        jobs = [job for part in step.touched.values() for job in part.jobs(execution.state)]
        self._write_header(group, execution, jobs, created=created)
        self._agenda.schedule(execution, jobs, group)
        self.cache.touch(execution)
        if execution.sequence - execution.snapshot_sequence >= HOT_SNAPSHOT_ROWS:
            self._write_snapshot(execution, HOT_SNAPSHOT_ROWS + execution.kind.weight(execution.state) // HOT_SNAPSHOT_BYTES_PER_ROW)
        if self.inspector is not None:
            self.inspector.stepped(execution, row, step.side)

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
            jobs = set(all_jobs(execution.kind, execution.state))
            if execution.entries:
                self.timers.forget([entry for entry in execution.entries if entry.job not in jobs])
            ready = any(job.at == 0 for job in jobs)
            wake_at = min((job.at for job in jobs if job.at > 0), default=None)
        if fill_header(header, visible, ready, wake_at) or created:
            header.state_transitions = execution.sequence
            group.add_header(header.copy())

    def _loaded(self, execution: AnyExecution) -> None:
        self._agenda.schedule_loaded(execution)
        if self.inspector is not None:
            self.inspector.loaded(execution)

    # -- the writer's answers ---------------------------------------------------------------------------
    def _on_durable(self, group: Group) -> None:
        for row in group.commit.journal:
            execution = group.executions[row.uid]
            if row.event_count:
                execution.durable_event_id = row.first_event_id + row.event_count - 1
        for execution in group.executions.values():
            if execution.group is group:
                execution.group = None
            chain = self.cache.chains.get(execution.chain_key)
            if chain is not None and chain.group is group:
                chain.group = None
            execution.announce()
        # Only now they can be let go, and only after the effects, which want them in memory.
        group.effects.append(lambda: self.cache.trim(max(MOST_LOOKED_AT, len(group.executions))))

    def _on_failed(self, groups: list[Group]) -> None:
        """Drop what was not made durable; reload it, so that its jobs are found again."""
        lost: dict[RunKey, AnyExecution] = {e.key: e for group in groups for e in group.executions.values()}
        for execution in lost.values():
            self.cache.drop(execution)
        self.loader.forget(lost)
        self._drop_chains(dict.fromkeys(key.chain for key in lost))
        if not self.writer.is_fenced:
            for key in lost:
                self.spawn(self._reload(key))

    def _drop_chains(self, keys: Iterable[ChainKey]) -> None:
        """Remove chains from memory. Runs of theirs that have jobs are loaded again, because only what is in memory has its jobs done."""
        for key in keys:
            chain = self.cache.chains.get(key)
            if chain is None:
                continue
            busy = [e.key for e in chain.runs.values() if all_jobs(e.kind, e.state)]
            self.cache.drop_chain(key)
            if not self.writer.is_fenced:
                for run_key in busy:
                    self.spawn(self._reload(run_key))

    async def _reload(self, key: RunKey, after_seconds: float = 0.0) -> None:
        """Bring an execution back into memory so that its jobs run; it may not exist at all (its start was lost)."""
        await asyncio.sleep(after_seconds)
        while True:
            try:
                await self.loader.chain(key.chain, key.run_id)
                self._cannot_load = False
                return
            except Exception as error:
                # Thousands may wait for a store that is away: the first of them speaks for all.
                log.log(logging.DEBUG if self._cannot_load else logging.WARNING, "cannot load %s yet: %s", key, error)
                self._cannot_load = True
                await asyncio.sleep(1)

    def _undo(self, transaction: Transaction, reload_after: float = 0.0) -> None:
        """Forget what an undone decision changed in memory: the journal is the truth. Loading waits until all before it is durable.

        What is in memory only was restored by the steps, and outlives the reload: callers may be waiting for it.
        """
        for step in transaction.steps.values():
            step.undo()
        touched = [transaction.executions[uid] for uid, step in transaction.steps.items() if step.has_records]
        if not touched and not transaction.created:
            return
        key = transaction.key
        if transaction.chain.group is not None:
            self.cache.settle(key, transaction.chain.group.finished)
        kept = [e for e in transaction.chain.runs.values() if e.uid not in transaction.created]
        self.cache.drop_chain(key)
        for execution in kept:
            self.loader.keep(execution.key, execution.volatile)
            self.spawn(self._reload(execution.key, reload_after))

    # -- memory ---------------------------------------------------------------------------------------
    def _evict(self, execution: AnyExecution) -> None:
        """Let go of an idle execution: its header must lead back to it exactly."""
        execution.dropped = True
        jobs = all_jobs(execution.kind, execution.state)
        # Work that has been handed out waits for a worker, not for its time: that has come.
        handed_out = {job for job in jobs if isinstance(job, EffectJob) and job not in execution.scheduled}
        ready = bool(handed_out) or any(job.at == 0 for job in jobs)
        wake_at = min((job.at for job in jobs if job.at > 0 and job not in handed_out), default=None)
        header = execution.header
        if (header.ready, header.wake_at) != (ready, wake_at) and not self.writer.is_fenced:
            header.ready, header.wake_at = ready, wake_at
            group = self.writer.open_group()
            group.add_header(header.copy())
            # Who loaded the old header now and found it good enough would be overwritten by this one.
            self.cache.settle(execution.chain_key, group.finished)
        if not self.writer.is_full:
            self._write_snapshot(execution, SNAPSHOT_ROWS)
        self.timers.forget(execution.entries)
        execution.entries.clear()
        execution.scheduled.clear()
        execution.announce()
        self.on_evicted(execution.key, wake_at)

    def _write_snapshot(self, execution: AnyExecution, after_rows: int) -> None:
        """Spare the next load the reading of a long journal. Losing a snapshot costs time only."""
        if execution.sequence - execution.snapshot_sequence < after_rows or self.writer.is_fenced:
            return
        execution.snapshot_sequence = execution.sequence
        data = execution.kind.encode_state(execution.state)
        snapshot = Snapshot(execution.uid, execution.sequence, execution.kind.snapshot_version, data)
        self.writer.open_group().commit.snapshots.append(snapshot)

    def _new_uid(self) -> int:
        """Growing, and unique among partitions: microseconds since the epoch and the partition's number (at most 1,024 of them)."""
        self._last_uid = max(self._last_uid + 1024, (self.clock.now() // 1000) << 10 | self.number)
        return self._last_uid

    async def settle(self, seconds: float) -> None:
        """Wait until all of now is durable. What is not after so many seconds is given up: its callers are answered, nothing can follow."""
        if not await self.writer.drain(seconds):
            await self.writer.stop()

    async def stop(self, seconds: float) -> None:
        """Make everything durable, let go of everything. What is not durable after so many seconds is given up."""
        self._closing = True
        self._agenda.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.settle(seconds)
        self.timers.close()
        if not self.writer.has_given_up:
            self.cache.flush()
            await self.settle(seconds)
        await self.writer.stop()
