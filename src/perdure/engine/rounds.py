"""Goes round the executions that have work to hand out, for whoever had no room for all of it."""

from __future__ import annotations

from collections.abc import Callable

from perdure.engine.live import AnyExecution
from perdure.engine.loader import run_key
from perdure.engine.partition import Partition
from perdure.store.protocol import Header, Store

BATCH = 500


class Rounds:
    """The rounds through one partition: each begins where the one before has stopped, so that everybody's turn comes."""

    def __init__(self, partition: Partition, store: Store) -> None:
        self._partition = partition
        self._store = store
        self._stopped_at = 0

    async def go(self, visit: Callable[[AnyExecution], None], is_enough: Callable[[], bool]) -> None:
        """Bring every execution whose header says that it has work to hand out into memory once, and visit it, until it is enough.

        Raises StoreError, or ApiError UNAVAILABLE, when the store cannot be read; the next round begins where this one was.
        """
        self._visit_awake(visit)
        if is_enough():
            return
        start = self._stopped_at
        is_past_end = False
        while True:
            headers = await self._store.find_ready(self._partition.slots, self._stopped_at, BATCH)
            for header in headers:
                if is_past_end and header.uid > start:
                    return
                await self._visit(header, visit)
                self._stopped_at = header.uid
                if is_enough():
                    return
            if len(headers) < BATCH:
                self._stopped_at = 0
                if is_past_end or not start:
                    return
                is_past_end = True

    def _visit_awake(self, visit: Callable[[AnyExecution], None]) -> None:
        """Those whose time has come while they were in memory: their headers say only when that was, until they are evicted."""
        now = self._partition.clock.now()
        runs = [run for chain in self._partition.cache.chains.values() for run in chain.runs.values()]
        for run in runs:
            if not run.header.ready and run.header.wake_at is not None and run.header.wake_at <= now:
                visit(run)

    async def _visit(self, header: Header, visit: Callable[[AnyExecution], None]) -> None:
        key = run_key(header)
        partition = self._partition
        chain = partition.cache.chains.get(key.chain)
        if chain is None or key.run_id not in chain.runs:
            chain = await partition.loader.chain(key.chain, key.run_id)
        execution = chain.runs.get(key.run_id)
        if execution is not None:
            visit(execution)
            partition.cache.trim()
