"""Brings chains and executions into memory: header, snapshot, journal, side data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perdure.core.errors import unavailable
from perdure.core.execution import ChainKey, Kind, RunKey, Visible, untouched
from perdure.core.records import Note
from perdure.engine.cache import Cache
from perdure.engine.live import AnyExecution, Chain, Execution
from perdure.store.protocol import Header, JournalRow, Store, StoreError

FOLDED_AT_A_TIME = 1000
"""Events, some milliseconds; then the event loop gets its turn. What is being read belongs to nobody else yet."""


class Loader:
    """Loads each chain and each run once, however many calls ask for it at the same time."""

    def __init__(
        self, store: Store, kinds: Mapping[str, Kind[Any, Any]], cache: Cache, loaded: Callable[[AnyExecution], None],
        tail_bytes: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._kinds = kinds
        self._cache = cache
        self._loaded = loaded
        self._tail_bytes = tail_bytes
        self._loading: dict[ChainKey, asyncio.Future[None]] = {}
        self._kept: dict[RunKey, Any] = {}

    def keep(self, key: RunKey, volatile: Any) -> None:
        """Give the run this volatile state when it is loaded next (soon: the caller sees to that)."""
        self._kept[key] = volatile

    def forget(self, keys: Iterable[RunKey]) -> None:
        """Give these runs nothing that was kept for them."""
        for key in keys:
            self._kept.pop(key, None)

    def cached(self, key: ChainKey, run_id: str | None) -> Chain | None:
        """The chain, if its current run and the asked-for run are in memory."""
        chain = self._cache.chains.get(key)
        if chain is None:
            return None
        current = chain.current_run_id
        wanted = run_id or current
        if (wanted and wanted not in chain.runs) or (current and current not in chain.runs):
            return None
        self._cache.hits += 1
        if wanted:
            self._cache.used(chain.runs[wanted])
        return chain

    async def chain(self, key: ChainKey, run_id: str | None) -> Chain:
        """The chain, with its current run and the asked-for run (if they exist) in memory.

        Raises ApiError UNAVAILABLE when the store fails.
        """
        while True:
            chain = self.cached(key, run_id)
            if chain is not None:
                return chain
            loading = self._loading.get(key)
            if loading is not None:
                await asyncio.shield(loading)
                continue
            self._cache.misses += 1
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._loading[key] = future
            try:
                return await self._load(key, run_id)
            except StoreError as error:
                raise unavailable("The store cannot be read at the moment. Try again.") from error
            finally:
                del self._loading[key]
                future.set_result(None)

    async def _load(self, key: ChainKey, run_id: str | None) -> Chain:
        """Load what is missing. The chain is usable even when the asked-for run does not exist."""
        while True:
            while (settling := self._cache.settling.get(key)) is not None:
                await asyncio.wait([settling])
            chain = self._cache.chains.get(key)
            if chain is not None:
                chain.users += 1
            try:
                current, executions = await self._read(key, run_id, chain)
            finally:
                if chain is not None:
                    chain.users -= 1
            # While we were reading, the chain may have been dropped, because it was not the truth any more: then neither is what we read.
            if self._cache.chains.get(key) is chain and key not in self._cache.settling:
                break
        if chain is None:
            chain = Chain(key, current.run_id if current else None)
            if executions:  # a chain without runs is not kept: anyone may ask for any id
                self._cache.chains[key] = chain
        for execution in executions:
            if execution.key.run_id not in chain.runs:
                chain.runs[execution.key.run_id] = execution
                self._kept.pop(execution.key, None)
                self._cache.touch(execution)
                self._loaded(execution)
        return chain

    async def _read(self, key: ChainKey, run_id: str | None, chain: Chain | None) -> tuple[Header | None, list[AnyExecution]]:
        """The header of the current run, if it had to be looked for, and the runs that are missing."""
        current: Header | None = None
        if chain is None or (chain.current_run_id and chain.current_run_id not in chain.runs):
            current = await self._store.find_current(*key)
        headers = [current] if current is not None else []
        if run_id and (chain is None or run_id not in chain.runs) and (current is None or current.run_id != run_id):
            header = await self._store.find_run(*key, run_id)
            if header is not None:
                headers.append(header)
        return current, [await self._execution(header) for header in headers]

    async def _execution(self, header: Header) -> AnyExecution:
        kind = self._kinds[header.kind]
        key = run_key(header)
        snapshot = await self._store.read_snapshot(header.uid, kind.snapshot_version)
        state = kind.decode_state(snapshot.data) if snapshot is not None else kind.new_state()
        execution: AnyExecution = Execution(kind, key, header, state, self._kept.get(key) or kind.new_volatile())
        execution.sequence = execution.snapshot_sequence = snapshot.sequence if snapshot is not None else 0
        folded = 0
        for row in await self._store.read_journal(header.uid, execution.sequence):
            fold(kind, state, row)
            folded += row.event_count
            if folded > FOLDED_AT_A_TIME:
                folded = 0
                await asyncio.sleep(0)
            execution.sequence = row.sequence
            execution.remember(row, self._tail_bytes)
        if snapshot is not None:
            kind.clear_side(state)
        for side in await self._store.read_side(header.uid):
            kind.apply_side(state, side.name, side.data, untouched)
        execution.durable_event_id = kind.next_event_id(state) - 1
        return execution


def run_key(header: Header) -> RunKey:
    """The run that a header belongs to."""
    return RunKey(header.namespace_id, header.kind, header.business_id, header.run_id)


def fold(kind: Kind[Any, Any], state: Any, row: JournalRow) -> None:
    """Apply one journal row to a state."""
    for record in kind.notes.replay(row.events, row.notes):
        if isinstance(record, Note):
            kind.apply_note(state, record, untouched)
        else:
            if not kind.is_applied(state):
                kind.apply_event(state, record, untouched)
            kind.number_event(state, record, record.SerializeToString(), untouched)


def fill_header(header: Header, visible: Visible, ready: bool, wake_at: int | None) -> bool:
    """Bring a header up to date; returns whether anything that has to be stored changed.

    The counters of an open execution are not worth a write of their own: visibility shows them only once it is closed.
    """
    shown = (visible.status, visible.close_at, visible.expire_at, visible.task_queue, visible.execution_at)
    changed = (
        (header.ready, header.wake_at) != (ready, wake_at)
        or (header.status, header.close_at, header.expire_at, header.task_queue, header.execution_at) != shown
        or (header.search_attributes, header.memo, header.details) != (visible.search_attributes, visible.memo, visible.details)
    )
    header.ready, header.wake_at = ready, wake_at
    header.status, header.close_at, header.expire_at, header.task_queue, header.execution_at = shown
    header.type_name, header.start_at = visible.type_name, visible.start_at
    header.history_length, header.history_size = visible.history_length, visible.history_size
    header.parent_business_id, header.parent_run_id = visible.parent_business_id, visible.parent_run_id
    header.root_business_id, header.root_run_id = visible.root_business_id, visible.root_run_id
    header.search_attributes, header.memo, header.details = visible.search_attributes, visible.memo, visible.details
    return changed
