"""The engine as the rest of the server sees it: intents go in, outcomes come out; nobody outside knows how many partitions there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from perdure.core.clock import SECOND, Clock
from perdure.core.execution import ChainKey, Kind, RunKey
from perdure.core.ids import IdSource
from perdure.core.jobs import EffectJob
from perdure.engine.live import AnyExecution, HistoryBatch
from perdure.engine.partition import Decide, Partition
from perdure.engine.upkeep import Upkeep
from perdure.engine.writer import CommitObserver
from perdure.store.protocol import SLOTS, Lease, Store, StoreOpenError

log = logging.getLogger(__name__)

R = TypeVar("R")
EffectHandler = Callable[[RunKey, Any], None]

LEASE = 10 * SECOND
LEASE_RETRY_SECONDS = 0.5
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

    partitions: how many; any number, it may change from one start to the next. owner: names this server in leases. standby: wait for another server's
    leases instead of refusing to start. cache_bytes: for all partitions together.
    """

    def __init__(
        self, store: Store, kinds: Mapping[str, Kind[Any, Any]], clock: Clock, ids: IdSource, *, owner: str, partitions: int = 1,
        cache_bytes: int = 32 * 1024 * 1024, standby: bool = False, observer: CommitObserver | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.kinds = kinds
        self.clock = clock
        self.ids = ids
        self.effects = EffectRegistry()
        self.partitions: list[Partition] = []
        self._count = partitions
        self._owner = owner
        self._standby = standby
        self._cache_bytes = cache_bytes
        self._observer = observer
        self._upkeep: list[Upkeep] = []
        #: Called when a lease was lost to another server; this process can no longer serve.
        self.on_fenced: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Take the leases and begin. Raises StoreOpenError when another server holds them (unless this one is a standby, which waits)."""
        for number in range(self._count):
            lease = await self._acquire(number)
            slots = range(SLOTS * number // self._count, SLOTS * (number + 1) // self._count)
            partition = Partition(
                self.store, lease, slots, self.kinds, self.effects, self.clock, self.ids,
                cache_bytes=self._cache_bytes // self._count, observer=self._observer, on_fenced=lambda: self.on_fenced(),
            )  # fmt: skip
            partition.writer.start()
            self.partitions.append(partition)
            self._upkeep.append(Upkeep(partition, self.store, lease, LEASE))

    def begin_work(self) -> None:
        """Find the work that was left in the store; call once effects have their handlers."""
        for upkeep in self._upkeep:
            upkeep.start()

    async def stop(self) -> None:
        """Make everything durable and give the leases back."""
        for upkeep in self._upkeep:
            await upkeep.stop()
        for partition in self.partitions:
            await partition.stop()
        for upkeep in self._upkeep:
            await upkeep.release()

    async def _acquire(self, number: int) -> Lease:
        waiting = False
        while True:
            now = self.clock.now()
            lease = await self.store.acquire_lease(number, self._owner, now, now + LEASE)
            if lease is not None:
                return lease
            held = await self.store.read_lease(number)
            holder = held.owner if held else "another server"
            if not self._standby:
                raise StoreOpenError(
                    f"The database ({self.store.description}) is in use by another server ({holder}). "
                    "Stop that server first, give this one a database of its own, or start it with --standby to take over when the other one ends."
                )
            if not waiting:
                log.warning("standing by: partition %d is held by %s", number, holder)
                waiting = True
            await asyncio.sleep(LEASE_RETRY_SECONDS)

    # -- intents ------------------------------------------------------------------------------------
    def partition_of(self, key: ChainKey) -> Partition:
        """The partition that owns a chain."""
        if self._count == 1:
            return self.partitions[0]
        return self.partitions[key.slot(SLOTS) * self._count // SLOTS]

    async def transact(self, key: ChainKey, run_id: str | None, decide: Decide[R]) -> R:
        """See :meth:`Partition.transact`."""
        return await self.partition_of(key).transact(key, run_id or None, decide)

    async def read(self, key: ChainKey, run_id: str | None) -> AnyExecution | None:
        """See :meth:`Partition.read`."""
        return await self.partition_of(key).read(key, run_id or None)

    # -- history ------------------------------------------------------------------------------------
    async def history(
        self, execution: AnyExecution, first_event_id: int, last_event_id: int, limit: int = HISTORY_ROWS
    ) -> list[HistoryBatch]:
        """The durable batches that hold events first..last, in order, at most `limit` of them; from memory where possible."""
        last_event_id = min(last_event_id, execution.durable_event_id)
        if first_event_id > last_event_id:
            return []
        if execution.tail and execution.tail[0].first_event_id <= first_event_id:
            found = [b for b in execution.tail if b.last_event_id >= first_event_id and b.first_event_id <= last_event_id]
            return found[:limit]
        rows = await self.store.read_history(execution.uid, first_event_id, limit)
        return [HistoryBatch(r.first_event_id, r.event_count, r.events) for r in rows if r.first_event_id <= last_event_id]

    async def history_reverse(self, execution: AnyExecution, last_event_id: int, limit: int = HISTORY_ROWS) -> list[HistoryBatch]:
        """The durable batches at or before an event, latest first."""
        rows = await self.store.read_history(execution.uid, min(last_event_id, execution.durable_event_id), limit, reverse=True)
        return [HistoryBatch(r.first_event_id, r.event_count, r.events) for r in rows]
