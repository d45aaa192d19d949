"""The engine as the rest of the server sees it: intents go in, outcomes come out; nobody outside knows how many partitions there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from perdure.core.clock import SECOND, Clock
from perdure.core.execution import ChainKey, Kind, RunKey
from perdure.core.ids import IdSource
from perdure.core.jobs import EffectJob
from perdure.engine.live import AnyExecution, HistoryBatch
from perdure.engine.partition import Decide, Partition
from perdure.engine.rounds import Rounds
from perdure.engine.tenure import Tenure
from perdure.engine.upkeep import Upkeep, until
from perdure.engine.waits import Waits
from perdure.engine.writer import CommitObserver
from perdure.store.protocol import SLOTS, Lease, Store, StoreError, StoreInUse, StoreOpenError

log = logging.getLogger(__name__)

R = TypeVar("R")
EffectHandler = Callable[[RunKey, Any], None]

LEASE = 5 * SECOND
"""How long a server that died without a word keeps a standby waiting."""

LEASE_RETRY = SECOND // 4
HISTORY_ROWS = 256


class EffectRegistry:
    """Which handler carries out which type of effect job; features register theirs when the server is wired together."""

    def __init__(self) -> None:
        self._handlers: dict[type[EffectJob], EffectHandler] = {}

    def register(self, job_type: type[EffectJob], handler: EffectHandler) -> None:
        """handler(run key, job): sync, quick, must not raise; spawns what has to wait. Raises ValueError for a second handler."""
        if job_type in self._handlers:
            raise ValueError(f"two handlers for {job_type.__name__}")
        self._handlers[job_type] = handler

    def run(self, key: RunKey, job: EffectJob) -> None:
        self._handlers[type(job)](key, job)


class Engine:
    """All partitions of this process, and the router between them.

    partitions: how many; any number, it may change from one start to the next. owner: names this server in leases. standby: wait for
    another server's
    leases instead of refusing to start. cache_bytes, unwritten_bytes: see :class:`Partition`, for all partitions together.
    """

    def __init__(
        self, store: Store, kinds: Mapping[str, Kind[Any, Any]], clock: Clock, ids: IdSource, *, owner: str, partitions: int = 1,
        cache_bytes: int, unwritten_bytes: int, standby: bool = False, observer: CommitObserver | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.kinds = kinds
        self.clock = clock
        self.ids = ids
        self.effects = EffectRegistry()
        self.waits = Waits()
        self.partitions: list[Partition] = []
        self._count = partitions
        self._owner = owner
        self._standby = standby
        self._cache_bytes = cache_bytes
        self._unwritten_bytes = unwritten_bytes
        self._observer = observer
        self._upkeep: list[Upkeep] = []
        self._rounds: list[Rounds] = []
        #: Called when a lease was lost to another server, or a partition has broken down; this process can no longer serve.
        self.on_fenced: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Take the leases and begin. Raises StoreInUse when another server holds them (unless this one is a standby, which waits)."""
        tenures = [await self._acquire(number) for number in range(self._count)]
        # A server with more partitions may have used this store before: whoever still holds one of those leases must not write any more.
        number = self._count
        while await self.store.read_lease(number) is not None:
            await self._acquire(number)
            number += 1
        for lease, tenure in tenures:
            # Rounded up, so that they agree with partition_of.
            slots = range(-(-SLOTS * lease.partition // self._count), -(-SLOTS * (lease.partition + 1) // self._count))
            partition = Partition(
                self.store, lease, tenure, slots, self.kinds, self.effects, self.clock, self.ids,
                cache_bytes=self._cache_bytes // self._count, unwritten_bytes=self._unwritten_bytes // self._count,
                observer=self._observer, on_fenced=self._fenced,
            )  # fmt: skip
            partition.writer.start()
            self.partitions.append(partition)
            self._upkeep.append(Upkeep(partition, self.store, lease, LEASE))
            self._rounds.append(Rounds(partition, self.store))

    def _fenced(self) -> None:
        """One lost lease, or one partition that cannot go on, ends the whole server: somebody else has to own the store now."""
        for partition in self.partitions:
            partition.writer.fence()
        on_fenced, self.on_fenced = self.on_fenced, lambda: None
        on_fenced()

    def begin_work(self) -> None:
        """Find the work that was left in the store; call once effects have their handlers."""
        for upkeep in self._upkeep:
            upkeep.start()

    @property
    def has_given_up(self) -> bool:
        """Whether this engine stopped before the store had answered: calls were left without a known outcome."""
        return any(partition.writer.has_given_up for partition in self.partitions)

    @property
    def has_broken_down(self) -> bool:
        """Whether this engine was fenced for a bug of ours, and not because another server has taken over."""
        return any(partition.writer.has_broken_down for partition in self.partitions)

    async def write_out(self, seconds: float) -> None:
        """The server is about to stop: answer every call that waits for the store, after so many seconds at the latest."""
        await asyncio.gather(*(partition.write_out(seconds) for partition in self.partitions))

    async def stop(self, seconds: float) -> None:
        """Make everything durable and give the leases back. seconds: so long the store may take; what it has not answered is given up."""
        await asyncio.gather(*(upkeep.stop() for upkeep in self._upkeep))
        await asyncio.gather(*(partition.stop(seconds) for partition in self.partitions))
        await asyncio.gather(*(upkeep.release() for upkeep in self._upkeep))

    async def _acquire(self, number: int) -> tuple[Lease, Tenure]:
        """Take a lease. One that nobody renews runs out: its owner has died. A living owner is waited for by a standby only."""
        seen: Lease | None = None
        is_away = False
        while True:
            now, asked_at = self.clock.now(), self.clock.elapsed()
            try:
                lease = await self.store.acquire_lease(number, self._owner, now, now + LEASE)
                if lease is not None:
                    return lease, Tenure(self.clock, LEASE, asked_at, is_shared=self.store.is_shared)
                held = await self.store.read_lease(number)
                is_away = False
            except StoreError as error:
                # A store that a newer version has taken over does not come back to this one.
                if not self._standby or isinstance(error, StoreOpenError):
                    raise
                if not is_away:
                    log.warning("standing by: the store is away: %s", error)
                held, is_away = None, True
            if held is not None and seen is None:
                log.warning("%s: partition %d is held by %s", "standing by" if self._standby else "waiting", number, held.owner)
                seen = held
            elif held is not None and seen is not None and held.expires_at > seen.expires_at and not self._standby:
                raise StoreInUse(
                    f"The database ({self.store.description}) is in use by another server ({held.owner}). "
                    "Stop that server first, give this one a database of its own, or start it with --standby to take over when it ends."
                )
            await until(self.clock, now + LEASE_RETRY)

    # -- intents ------------------------------------------------------------------------------------
    def partition_of(self, key: ChainKey) -> Partition:
        """The partition that owns a chain."""
        if self._count == 1:
            return self.partitions[0]
        return self.partitions[key.slot(SLOTS) * self._count // SLOTS]

    def transact(self, key: ChainKey, run_id: str | None, decide: Decide[R]) -> Coroutine[Any, Any, R]:
        """See :meth:`Partition.transact`."""
        return self.partition_of(key).transact(key, run_id or None, decide)

    def read(self, key: ChainKey, run_id: str | None, *, trailing: bool = False) -> Coroutine[Any, Any, AnyExecution | None]:
        """See :meth:`Partition.read`."""
        return self.partition_of(key).read(key, run_id or None, trailing=trailing)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something in the background that concerns all partitions; it ends with the engine."""
        self.partitions[0].spawn(coroutine)

    async def go_round(self, visit: Callable[[AnyExecution], None], is_enough: Callable[[], bool]) -> None:
        """Visit the executions that have work to hand out, in all partitions, until it is enough. See :meth:`Rounds.go`."""
        for rounds in self._rounds:
            await rounds.go(visit, is_enough)

    def check_tenure(self, key: ChainKey) -> None:
        """For answers that are put together from what was read earlier. Raises ApiError UNAVAILABLE when the owner may be another."""
        self.partition_of(key).tenure.check()

    # -- history ------------------------------------------------------------------------------------
    async def history(
        self, execution: AnyExecution, first_event_id: int, last_event_id: int, limit: int = HISTORY_ROWS, *, trailing: bool = False
    ) -> list[HistoryBatch]:
        """The durable batches that hold events first..last, in order, at most `limit` of them; from memory where possible.

        trailing: with those that trail, for the worker that they were decided for.
        """
        if not trailing:
            last_event_id = min(last_event_id, execution.durable_event_id)
        if first_event_id > last_event_id:
            return []
        if execution.tail and execution.tail[0].first_event_id <= first_event_id:
            found = [b for b in execution.tail if b.last_event_id >= first_event_id and b.first_event_id <= last_event_id]
            return found[:limit]
        rows = await self.store.read_history(execution.uid, first_event_id, limit)
        found = [HistoryBatch(r.first_event_id, r.event_count, r.events) for r in rows if r.first_event_id <= last_event_id]
        if trailing and len(rows) < limit:
            after = found[-1].last_event_id if found else first_event_id - 1
            found += [b for b in execution.tail if after < b.first_event_id <= last_event_id]
        return found[:limit]

    async def history_reverse(self, execution: AnyExecution, last_event_id: int, limit: int = HISTORY_ROWS) -> list[HistoryBatch]:
        """The durable batches at or before an event, latest first."""
        rows = await self.store.read_history(execution.uid, min(last_event_id, execution.durable_event_id), limit, reverse=True)
        return [HistoryBatch(r.first_event_id, r.event_count, r.events) for r in rows]
