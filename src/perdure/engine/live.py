"""Executions and chains as they live in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from perdure.core.execution import ChainKey, Kind, RunKey
from perdure.core.jobs import Job
from perdure.engine.trailing import Trail
from perdure.engine.writer import Group
from perdure.store.protocol import Header, JournalRow

S = TypeVar("S")
V = TypeVar("V")

MANY_WATCHERS = 16
"""Beyond so many, those that have given up are forgotten before the next change."""

BASE_BYTES = 16_000
"""What an execution costs in memory before it holds any data (measured: structs, dictionaries, jobs)."""


class HistoryBatch(NamedTuple):
    """The events of one journal row: a page of history is made of whole batches."""

    first_event_id: int
    event_count: int
    events: bytes

    @property
    def last_event_id(self) -> int:
        return self.first_event_id + self.event_count - 1


class Execution(Generic[S, V]):
    """One run in memory.

    sequence: of its last journal row. group: the commit group that holds its latest change, None when all is durable. pins: who needs it to
    stay in
    memory (waiting callers). dropped: it is not the truth any more (a commit failed, or a decision was undone); load it again.
    tail: the latest batches of its history, durable or not; older ones are in the store.
    """

    __slots__ = (
        "_watchers", "chain_key", "counted_size", "dropped", "durable_event_id", "entries", "group", "header", "key", "kind", "pins",
        "scheduled", "sequence", "shown", "snapshot_sequence", "state", "tail", "tail_bytes", "trail", "uid", "volatile",
    )  # fmt: skip

    def __init__(self, kind: Kind[S, V], key: RunKey, header: Header, state: S, volatile: V) -> None:
        self.kind = kind
        self.key = key
        self.chain_key = key.chain
        self.header = header
        self.uid = header.uid
        self.counted_size = 0
        self.state = state
        self.volatile = volatile
        self.sequence = 0
        #: What its header shows, as its kind says it; None: find out. A closed execution's header is always looked at.
        self.shown: object = None
        self.snapshot_sequence = 0
        self.group: Group | None = None
        #: What becomes durable only with its next change, None when nothing waits for that.
        self.trail: Trail | None = None
        self.pins = 0
        self.dropped = False
        self.tail: deque[HistoryBatch] = deque()
        self.tail_bytes = 0
        self.durable_event_id = 0
        self.scheduled: set[Job] = set()
        self.entries: list[Any] = []
        self._watchers: list[tuple[Callable[[int], bool] | None, asyncio.Future[None]]] = []

    @property
    def size(self) -> int:
        """Bytes of memory that this execution takes (estimated)."""
        return BASE_BYTES + self.tail_bytes + self.kind.weight(self.state)

    def remember(self, row: JournalRow, limit: int) -> None:
        """Keep a journal row's events in the tail, dropping the oldest batches over the limit of bytes."""
        if row.event_count:
            self.tail.append(HistoryBatch(row.first_event_id, row.event_count, row.events))
            self.tail_bytes += len(row.events)
        while self.tail_bytes > limit and len(self.tail) > 1:
            self.tail_bytes -= len(self.tail.popleft().events)

    def announce(self) -> None:
        """Wake everyone who waits for a durable change of this execution, if it is the one they wait for."""
        if not self._watchers:
            return
        watchers, self._watchers = self._watchers, []
        for wanted, future in watchers:
            if future.done():
                continue
            if wanted is None or self.dropped or wanted(self.durable_event_id):
                future.set_result(None)
            else:
                self._watchers.append((wanted, future))

    def is_awaited(self, last_event_id: int) -> bool:
        """Whether anyone waits for what would be there if the events up to this one were durable."""
        return any(not future.done() and (wanted is None or wanted(last_event_id)) for wanted, future in self._watchers)

    def watch(self, wanted: Callable[[int], bool] | None = None) -> asyncio.Future[None]:
        """A future of one caller's own that ends with the next durable change, or when the execution leaves memory.

        wanted: asked at each change, with the id of the last durable event; a change of which it says no does not count. Must be quick.
        The caller may end the future himself.
        """
        if len(self._watchers) > MANY_WATCHERS:
            self._watchers = [watcher for watcher in self._watchers if not watcher[1].done()]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((wanted, future))
        return future


class Chain:
    """The runs of one business id that are in memory, and which of them is current.

    current_run_id: None when the business id was never used (or its last run was deleted).
    """

    __slots__ = ("current_run_id", "group", "key", "runs", "users")

    def __init__(self, key: ChainKey, current_run_id: str | None) -> None:
        self.key = key
        self.current_run_id = current_run_id
        self.runs: dict[str, AnyExecution] = {}
        self.group: Group | None = None
        #: Calls that hold this chain across an await; it stays in memory as long.
        self.users = 0

    def find(self, uid: int) -> AnyExecution | None:
        """The run with that uid, if it is in memory."""
        return next((execution for execution in self.runs.values() if execution.uid == uid), None)


AnyExecution = Execution[Any, Any]
