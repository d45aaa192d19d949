"""Executions in memory, least recently used first, bounded by bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from perdure.core.execution import ChainKey, RunKey
from perdure.engine.live import AnyExecution, Chain


class Cache:
    """What is in memory.

    limit: bytes (estimated) that executions may take. evict(execution): called before an execution leaves; it must make its header exact.
    Pinned executions, and those with changes that are not durable, stay whatever the limit says.
    """

    def __init__(self, limit: int, evict: Callable[[AnyExecution], None]) -> None:
        self.limit = limit
        self.size = 0
        self.hits = 0
        self.misses = 0
        self.chains: dict[ChainKey, Chain] = {}
        #: Chains that were dropped while their last change was on its way to the store: load them only once it has arrived.
        self.settling: dict[ChainKey, asyncio.Future[None]] = {}
        self._evict = evict
        self._runs: OrderedDict[RunKey, AnyExecution] = OrderedDict()
        self._sizes: dict[RunKey, int] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def touch(self, execution: AnyExecution) -> None:
        """Note that an execution was used, and how big it is now."""
        key = execution.key
        self.size += execution.size - self._sizes.get(key, 0)
        self._sizes[key] = execution.size
        self._runs[key] = execution
        self._runs.move_to_end(key)

    def trim(self) -> None:
        """Evict until the limit holds, as far as executions can be let go."""
        if self.size <= self.limit:
            return
        busy = 0
        for key in list(self._runs):
            if self.size <= self.limit or busy > 100:
                return
            execution = self._runs[key]
            chain = self.chains.get(key.chain)
            if execution.pins or execution.group is not None or execution.changed is not None or (chain and chain.users):
                busy += 1
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
        for entry in execution.entries:
            entry.run = entry.job = None
        execution.entries.clear()
        execution.announce()
        if self._runs.get(execution.key) is execution:
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
        self._runs.pop(key, None)
        self.size -= self._sizes.pop(key, 0)
        chain = self.chains.get(key.chain)
        if chain is not None:
            if chain.runs.get(key.run_id) is execution:
                del chain.runs[key.run_id]
            if not chain.runs and not chain.users and chain.group is None:
                del self.chains[key.chain]
