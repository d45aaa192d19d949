"""Executions in memory, least recently used first, bounded by bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from perdure.core.execution import ChainKey
from perdure.engine.live import AnyExecution, Chain
from perdure.engine.timers import Timers

MOST_LOOKED_AT = 100
"""Executions that one call of :meth:`Cache.trim` looks at: every call that brings one in pays for taking about one out."""


class Cache:
    """What is in memory.

    limit: bytes (estimated) that executions may take. evict(execution): called before an execution leaves; it must make its header exact.
    Pinned executions, and those with changes that are not durable, stay whatever the limit says.
    """

    def __init__(self, limit: int, evict: Callable[[AnyExecution], None], timers: Timers) -> None:
        self.limit = limit
        self.size = 0
        self.hits = 0
        self.misses = 0
        self.chains: dict[ChainKey, Chain] = {}
        #: Chains that were dropped while their last change was on its way to the store: load them only once it has arrived.
        self.settling: dict[ChainKey, asyncio.Future[None]] = {}
        self._evict = evict
        self._timers = timers
        self._runs: OrderedDict[int, AnyExecution] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def used(self, execution: AnyExecution) -> None:
        """Note that an execution in memory was used."""
        if execution.uid in self._runs:
            self._runs.move_to_end(execution.uid)

    def touch(self, execution: AnyExecution) -> None:
        """Note that an execution has changed or has come into memory, and how big it is now."""
        size = execution.size
        self.size += size - execution.counted_size
        execution.counted_size = size
        self._runs[execution.uid] = execution
        self._runs.move_to_end(execution.uid)

    @property
    def is_over(self) -> bool:
        """Whether more is in memory than should be."""
        return self.size > self.limit

    def trim(self, looks: int = MOST_LOOKED_AT) -> None:
        """Evict until the limit holds, as far as executions can be let go. looks: at how many of them, at most."""
        if self.size <= self.limit:
            return
        for _ in range(min(len(self._runs), looks)):
            if self.size <= self.limit:
                return
            uid, execution = next(iter(self._runs.items()))
            chain = self.chains.get(execution.chain_key)
            if execution.pins or execution.group is not None or execution.trail is not None or (chain and chain.users):
                self._runs.move_to_end(uid)  # in use: as good as used just now
                continue
            self._evict(execution)
            self._remove(execution)

    def flush(self) -> None:
        """Evict everything (at the end)."""
        for execution in list(self._runs.values()):
            self._evict(execution)
            self._remove(execution)

    def drop(self, execution: AnyExecution) -> None:
        """Remove an execution that is not the truth any more."""
        execution.dropped = True
        self._timers.forget(execution.entries)
        execution.entries.clear()
        execution.announce()
        if self._runs.get(execution.uid) is execution:
            self._remove(execution)

    def drop_chain(self, key: ChainKey) -> None:
        """Remove a chain that is not the truth any more, with all its runs."""
        chain = self.chains.pop(key, None)
        if chain is not None:
            for execution in list(chain.runs.values()):
                self.drop(execution)

    def settle(self, key: ChainKey, finished: asyncio.Future[None]) -> None:
        """Let nobody load this chain before the future has ended (either way)."""
        self.settling[key] = finished

        def settled(_: asyncio.Future[None]) -> None:
            if self.settling.get(key) is finished:
                del self.settling[key]

        finished.add_done_callback(settled)

    def _remove(self, execution: AnyExecution) -> None:
        key = execution.key
        chain_key = execution.chain_key
        self._runs.pop(execution.uid, None)
        self.size -= execution.counted_size
        execution.counted_size = 0
        chain = self.chains.get(chain_key)
        if chain is not None:
            if chain.runs.get(key.run_id) is execution:
                del chain.runs[key.run_id]
            if not chain.runs and not chain.users and chain.group is None:
                del self.chains[chain_key]
