"""A partition: one engine with its writer, the owner of a range of slots.

The path of an intent: load what it addresses (may await), decide and apply (never awaits), hand the records to the writer, wait until they
are durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from perdure.core.clock import SECOND, Clock
from perdure.core.errors import ApiError
from perdure.core.execution import ChainKey, Kind, RunKey, all_jobs
from perdure.core.ids import IdSource
from perdure.core.jobs import EffectJob, PureJob
from perdure.engine.agenda import Agenda, Effects
from perdure.engine.cache import MOST_LOOKED_AT, Cache
from perdure.engine.live import AnyExecution, Chain
from perdure.engine.loader import Loader, run_key
from perdure.engine.recorder import TAIL_BYTES, Recorder
from perdure.engine.tenure import Tenure
from perdure.engine.timers import Timers
from perdure.engine.transaction import Transaction
from perdure.engine.writer import CommitObserver, Group, Writer
from perdure.store.protocol import Header, Lease, Store

log = logging.getLogger(__name__)

R = TypeVar("R")
Decide = Callable[[Transaction], R]

SNAPSHOT_ROWS = 64
"""An execution that leaves memory with so many journal rows since its last snapshot gets a new one. Folding a row costs about as much as
decoding a hundredth of a state."""

FAILED_JOB_RETRY = 10 * SECOND
"""A job whose decision fails is a bug of ours; it is tried again so much later, in case the state has moved on."""


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
        self.snapshot_rows = SNAPSHOT_ROWS
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
        self.recorder = Recorder(clock, self.writer, self.cache, self.timers, self._agenda)
        self.loader = Loader(store, kinds, self.cache, self._loaded, TAIL_BYTES)
        #: Told when an execution has left memory: its key, and when it has to be there again at the latest.
        self.on_evicted: Callable[[RunKey, int | None], None] = lambda key, wake_at: None

    # -- intents --------------------------------------------------------------------------------
    async def transact(self, key: ChainKey, run_id: str | None, decide: Decide[R]) -> R:
        """Apply an intent to a chain and wait until its outcome is durable.

        run_id: the run it addresses; None for the current one. decide: sync; returns the outcome, or raises ApiError to refuse; gets
        ``run`` None when there is no such run. Raises ApiError UNAVAILABLE when the store failed, with a message that says whether
        anything of it may have happened; and RESOURCE_EXHAUSTED when too much waits to be committed.
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
        chain.users += 1
        try:
            result = decide(transaction)
            return result, self.recorder.hand_over(transaction) or (run.group if run is not None else chain.group)
        except Refused as refused:
            self._undo(transaction)
            instead = refused.instead
        except ApiError:
            self._undo(transaction)
            self.recorder.catch_up(chain)
            depends_on = run.group if run is not None else chain.group
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

    async def read(self, key: ChainKey, run_id: str | None, *, trailing: bool = False) -> AnyExecution | None:
        """The run in memory (None when there is none), after everything known about it is durable. Use it before the next await.

        trailing: but for what may trail (see :mod:`perdure.engine.trailing`); for the worker that it was decided for. Raises ApiError
        UNAVAILABLE when the store cannot be read, or another server may have taken over.
        """
        self.cache.trim()  # whatever the calls before have brought in
        while True:
            chain = self.loader.cached(key, run_id) or await self.loader.chain(key, run_id)
            run = chain.runs.get(run_id or chain.current_run_id or "")
            if not trailing:
                self.recorder.catch_up(chain)
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
            self.recorder.hand_over(transaction)
        except Exception:
            log.exception("%s of %s failed", type(job).__name__, execution.key)
            # Its records, if any, are undone by a reload; that would try again at once, and for ever.
            self._undo(transaction, reload_after=FAILED_JOB_RETRY / SECOND)
            if not execution.dropped:
                self._agenda.retry(execution, job, FAILED_JOB_RETRY)
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

    def _loaded(self, execution: AnyExecution) -> None:
        self._agenda.schedule_loaded(execution)
        if self.recorder.inspector is not None:
            self.recorder.inspector.loaded(execution)

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
        """Drop what was not made durable; reload it, so that its jobs are found again.

        Executions that left memory with these groups come back, too: the headers that lead to their next wake-up are lost.
        """
        lost: dict[RunKey, AnyExecution] = {e.key: e for group in groups for e in group.executions.values()}
        evicted = {run_key(header) for group in groups for header in group.headers.values()} - lost.keys()
        for execution in lost.values():
            self.cache.drop(execution)
        self.loader.forget(lost)
        self._drop_chains(dict.fromkeys(key.chain for key in lost))
        if not self.writer.is_fenced:
            for key in lost:
                self.spawn(self._reload(key))
            for key in sorted(evicted):
                self.on_evicted(key, self.clock.now())

    def _drop_chains(self, keys: Iterable[ChainKey]) -> None:
        """Remove chains from memory. Runs of theirs that have jobs are loaded again, because only what is in memory has its jobs done."""
        for key in keys:
            chain = self.cache.chains.get(key)
            if chain is None:
                continue
            busy = [e.key for e in chain.runs.values() if all_jobs(e.kind, e.state)]
            self.cache.drop_chain(key)
            if not self.writer.is_fenced:
                for busy_key in busy:
                    self.spawn(self._reload(busy_key))

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
        transaction.undo()
        touched = {uid for uid, step in transaction.steps.items() if step.has_changes}
        if not touched and not transaction.created:
            return
        self.recorder.save_trailing(transaction.chain, touched)
        self._read_again(transaction.chain, transaction.created, reload_after)

    def forget_trailing(self, key: RunKey, wanted: Callable[[AnyExecution], bool]) -> bool:
        """Take back what trails behind a run, as if the server had died before it was written.

        wanted: asked before. Returns whether it was done: it wanted that, and something trailed.
        """
        chain = self.cache.chains.get(key.chain)
        execution = chain.runs.get(key.run_id) if chain is not None else None
        if chain is None or execution is None or execution.trail is None or not wanted(execution):
            return False
        self.recorder.trailing.take(execution)
        self.recorder.save_trailing(chain, ())
        self._read_again(chain)
        return True

    def _read_again(self, chain: Chain, without: Container[int] = (), after_seconds: float = 0.0) -> None:
        """Drop a chain from memory and bring its runs back as their journals say. without: uids of runs that have no journal."""
        key = chain.key
        if chain.group is not None:
            self.cache.settle(key, chain.group.finished)
        kept = [execution for execution in chain.runs.values() if execution.uid not in without]
        self.cache.drop_chain(key)
        for execution in kept:
            self.loader.keep(execution.key, execution.volatile)
            self.spawn(self._reload(execution.key, after_seconds))

    # -- memory ---------------------------------------------------------------------------------------
    def _evict(self, execution: AnyExecution) -> None:
        """Let go of an idle execution: its header must lead back to it exactly."""
        execution.dropped = True
        if self.recorder.inspector is not None and not self.writer.is_fenced and not self.tenure.is_over:
            self.recorder.inspector.evicted(execution)
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
            self.recorder.write_snapshot(execution, self.snapshot_rows)
        self.timers.forget(execution.entries)
        execution.entries.clear()
        execution.scheduled.clear()
        execution.announce()
        self.on_evicted(execution.key, wake_at)

    def _new_uid(self) -> int:
        """Growing, and unique among partitions: microseconds since the epoch and the partition's number (at most 1,024 of them)."""
        self._last_uid = max(self._last_uid + 1024, (self.clock.now() // 1000) << 10 | self.number)
        return self._last_uid

    async def write_out(self, seconds: float) -> None:
        """Wait until all of now is durable. What is not after so many seconds is given up: its callers are answered, nothing can follow."""
        self.recorder.trailing.write_all()
        if not await self.writer.drain(seconds):
            await self.writer.stop()

    async def stop(self, seconds: float) -> None:
        """Make everything durable, let go of everything. What is not durable after so many seconds is given up."""
        self._closing = True
        self._agenda.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.write_out(seconds)
        self.recorder.trailing.close()
        self.timers.close()
        if not self.writer.has_given_up:
            self.cache.flush()
            await self.write_out(seconds)
        await self.writer.stop()
