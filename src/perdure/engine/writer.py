"""One writer per partition: groups all that is ready into one commit after the other.

Transitions run ahead in memory; whoever must not speak before they are durable waits for their :class:`Group`. While one group is being
committed,
the next one fills up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope

from perdure.core.clock import SECOND, Alarm, Clock
from perdure.core.errors import ApiError, resource_exhausted, unavailable
from perdure.store.protocol import Commit, CommitUnknown, Header, JournalRow, Lease, LeaseLost, SideRow, Store, StoreError

if TYPE_CHECKING:
    from perdure.engine.live import AnyExecution

log = logging.getLogger(__name__)

GATHER_TURNS = 40
QUIET_TURNS = 8
"""Turns of the event loop: the most that a commit waits for company, and how many without any end the wait.

A turn takes some 10 µs. Measured at 50 one-activity workflows at a time: a quarter less of the server's CPU time than without a wait.
Alone, a commit at once takes longer: its thread and the loop, which has the rest of the call to do, fight for the interpreter. To wait 2 ms
or 5 ms for more company gained no CPU time with the official worker, and cost a sixth to a third of the throughput.
"""

FAILURE_PAUSE_SECONDS = 0.02
LONGEST_FAILURE_PAUSE_SECONDS = 2.0
"""After a commit that failed, doubling with each further one: calls wait a little, and the log is not filled."""

RESOLVE_RETRY_SECONDS = 0.2

ROW_BYTES = 1_000
"""What a journal row that waits to be committed takes in memory beside its data: the row, a header, whoever waits for it."""

EXECUTION_BYTES = 16_000
"""What an execution takes that has to stay in memory because its latest change is not durable."""

WAIT_FOR_ROOM = 1 * SECOND
"""So long an intent waits for what was before it to be committed, before it is refused: short bursts pass."""

END_SECONDS = 1.0
"""A commit that was given up ends within so long, or is left to itself."""


TAKEN_OVER = "This server no longer owns that execution; connect to the server that took over and try again."
STOPPED = "The server has stopped. Try again."
NOTHING_HAPPENED = "The store could not commit this request; nothing of it happened. Try again with the same request id."
IN_DOUBT = "The store broke off while it committed this request; whether it happened is not known. Try again with the same request id."
OUTCOME_UNKNOWN = "The server has stopped; whether this happened is not known. Try again with the same request id."


def overloaded() -> ApiError:
    """What the official server says when its database cannot keep up."""
    return resource_exhausted(
        "System Persistence Max QPS Reached.",
        ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_PERSISTENCE_LIMIT,
        ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_SYSTEM,
    )


class CommitObserver(Protocol):
    """Told of every commit, for metrics."""

    def committed(self, rows: int, executions: Mapping[int, AnyExecution], journal: Sequence[JournalRow], seconds: float) -> None:
        """rows: written. executions: those that share it, by uid. journal: what was appended to them. seconds: from hand-over to the
        answer."""
        ...

    def commit_failed(self) -> None: ...


class Group:
    """What becomes durable together."""

    __slots__ = ("_waiting", "commit", "effects", "executions", "finished", "headers", "number", "size")

    def __init__(self, number: int, partition: int, epoch: int) -> None:
        self.number = number
        self.commit = Commit(partition, epoch, number)
        self.headers: dict[int, Header] = {}
        self.executions: dict[int, AnyExecution] = {}
        self.effects: list[Callable[[], None]] = []
        #: About how many bytes of memory wait here to be committed.
        self.size = 0
        #: Ends when the group is durable; raises an ApiError (UNAVAILABLE) when it did not become so.
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: list[asyncio.Future[None]] = []

    def wait(self) -> asyncio.Future[None]:
        """A future that ends as `finished` does, for one caller: when the caller is cancelled, nobody else is."""
        if self.finished.done():
            return self.finished
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def finish(self, error: Exception | None = None) -> None:
        """It is durable, or (error) it will never be. Called once."""
        for future in (*self._waiting, self.finished):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        if error is not None:
            self.finished.exception()  # nobody may be waiting; that is fine

    def add_execution(self, execution: AnyExecution) -> None:
        if execution.uid not in self.executions:
            self.executions[execution.uid] = execution
            self.size += EXECUTION_BYTES

    def add_row(self, row: JournalRow) -> None:
        self.commit.journal.append(row)
        self.size += ROW_BYTES + len(row.events) + len(row.notes)

    def add_header(self, header: Header) -> None:
        self.headers[header.uid] = header

    def add_side(self, row: SideRow) -> None:
        self.commit.side.append(row)
        self.size += ROW_BYTES + len(row.data or b"")


class Writer:
    """Commits groups one after the other.

    on_durable(group): called after each commit, before the group's effects. on_failed(groups): called when a commit did not happen; the
    groups (the failed one and the one that filled up meanwhile) are lost, and their executions must be dropped. on_fenced(): the lease is
    gone for good. bound_bytes: what may wait to be committed; beyond it new intents have to wait.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        clock: Clock,
        *,
        bound_bytes: int,
        on_durable: Callable[[Group], None],
        on_failed: Callable[[list[Group]], None],
        on_fenced: Callable[[], None],
        observer: CommitObserver | None = None,
    ) -> None:
        self._store = store
        self._bound_bytes = bound_bytes
        self._for_room: deque[asyncio.Future[None]] = deque()
        self._lease = lease
        self._clock = clock
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._on_fenced = on_fenced
        self._observer = observer
        self._number = lease.commit_number
        self._open: Group | None = None
        self._in_flight: Group | None = None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._fenced = False
        #: Whether something was not durable when the writer was stopped.
        self.has_given_up = False
        #: Whether something that the partition cannot do without has ended by a bug of ours.
        self.has_broken_down = False
        #: Commits that failed in a row.
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"writer-{self._lease.partition}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            group, self._in_flight = self._in_flight, None
            self.break_down("writer", error)
            if group is not None:
                group.finish(unavailable(IN_DOUBT))

    @property
    def is_fenced(self) -> bool:
        return self._fenced

    @property
    def unwritten(self) -> int:
        """About how many bytes of memory wait to be committed."""
        size = 0 if self._open is None else self._open.size
        return size if self._in_flight is None else size + self._in_flight.size

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be committed that nothing should be added for now."""
        return self._open is not None and self.unwritten >= self._bound_bytes

    async def room(self) -> None:
        """Wait until there is (perhaps) room for more. Raises ApiError RESOURCE_EXHAUSTED when there is none in time."""
        room: asyncio.Future[None] = self._loop.create_future()

        def give_up() -> None:
            if not room.done():
                room.set_exception(overloaded())

        alarm: Alarm = self._clock.call_at(self._clock.now() + WAIT_FOR_ROOM, give_up)
        self._for_room.append(room)
        try:
            await room
        finally:
            alarm.cancel()

    def _make_room(self) -> None:
        """Those who came first go first: what each of them adds decides whether there is room for the next."""
        waiting, self._for_room = self._for_room, deque()
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def open_group(self) -> Group:
        """The group that the present step goes into. Raises ApiError when this partition has been taken over."""
        if self._fenced:
            raise unavailable(STOPPED if self._task is None else TAKEN_OVER)
        if self._open is None:
            self._number += 1
            self._open = Group(self._number, self._lease.partition, self._lease.epoch)
            self._idle.clear()
            self._wake.set()
        return self._open

    def break_down(self, what: str, error: BaseException) -> None:
        """A task of the partition has died, and what it did is not done any more: stop, so that another server takes over."""
        log.critical("the %s of partition %d has died; this server stops", what, self._lease.partition, exc_info=error)
        self.has_broken_down = True
        self.fence()

    def fence(self) -> None:
        """Stop for good: the lease is gone, or is given up."""
        if not self._fenced:
            self._fenced = True
            if self._open is not None:
                self._fail(self._open)
            self._idle.set()
            self._make_room()
            self._on_fenced()

    async def drain(self, seconds: float) -> bool:
        """Wait until everything handed over so far is durable or has failed. False: it took longer than that."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End. What is not durable by now is given up, and whoever waits for it is told so."""
        self._fenced = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=END_SECONDS)
            self._task = None
        lost = [group for group in (self._in_flight, self._open) if group is not None]
        self._in_flight = self._open = None
        if lost:
            self.has_given_up = True
            log.error("commit %d was given up: the store has not answered", lost[0].number)
        for group in lost:
            group.finish(unavailable(OUTCOME_UNKNOWN))
        self._idle.set()
        self._make_room()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (group := await self._take()) is not None:
                self._in_flight = group
                await self._commit(group)
                self._in_flight = None
                self._make_room()
                if self._failures and not self._fenced:
                    # Executions whose time has come try again at once: a store that is full or away must not be asked without a pause.
                    await asyncio.sleep(min(FAILURE_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), LONGEST_FAILURE_PAUSE_SECONDS))
            self._idle.set()

    async def _take(self) -> Group | None:
        """The open group, once what is on its way has joined it; None when there is none, or it has failed meanwhile.

        To commit together costs less, and a busy loop would keep the store's thread waiting. The wait ends when the event loop has made a
        few turns in which nothing came.
        """
        if self._open is None:
            return None
        gathered: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_soon(self._gather, gathered, GATHER_TURNS, 0, 0)
        await gathered
        group, self._open = self._open, None
        return group

    def _gather(self, gathered: asyncio.Future[None], turns: int, quiet: int, size: int) -> None:
        """One turn of the wait for company. A callback costs a fraction of a task's turn."""
        if gathered.done():  # the writer was stopped
            return
        group = self._open
        now = 0 if group is None else len(group.commit.journal)
        quiet = quiet + 1 if now == size else 0
        if group is None or turns == 0 or quiet == QUIET_TURNS:
            gathered.set_result(None)
        else:
            self._loop.call_soon(self._gather, gathered, turns - 1, quiet, now)

    async def _commit(self, group: Group) -> None:
        commit = group.commit
        commit.headers = list(group.headers.values())
        started = self._clock.now()
        is_in_doubt = False
        try:
            try:
                await self._store.commit(commit)
            except CommitUnknown as error:
                is_in_doubt = True
                await self._resolve(group, error)
            except StoreError:
                raise
            except Exception as error:
                log.exception("commit %d failed in an unexpected way", group.number)
                is_in_doubt = True
                await self._resolve(group, error)
        except LeaseLost as error:
            log.error("partition %d was taken over: %s", self._lease.partition, error)
            self._fail(group, IN_DOUBT if is_in_doubt else NOTHING_HAPPENED)
            self.fence()
            return
        except StoreError as error:
            log.error("commit %d failed: %s", group.number, error)
            self._fail(group)
            return
        except Exception:
            log.exception("commit %d failed", group.number)
            self._fail(group, IN_DOUBT)
            return
        self._failures = 0
        if self._observer is not None:
            rows = len(commit.journal) + len(commit.headers) + len(commit.side) + len(commit.snapshots)
            self._observer.committed(rows, group.executions, commit.journal, (self._clock.now() - started) / 1e9)
        self._on_durable(group)
        for effect in group.effects:
            try:
                effect()
            except Exception:  # a bug of ours; the others, and the writer itself, go on
                log.exception("an effect of commit %d failed", group.number)
        group.effects.clear()  # they hold what holds the group
        group.finish()

    async def _resolve(self, group: Group, reason: Exception) -> None:
        """The outcome of a commit is unknown: read the store until it says whether it happened.

        Raises StoreError when it did not, LeaseLost when that cannot be known any more.
        """
        log.warning("the outcome of commit %d is unknown, reading it back: %s", group.number, reason)
        while True:
            try:
                lease = await self._store.read_lease(self._lease.partition)
                break
            except StoreError as error:
                log.warning("cannot read the outcome of commit %d yet: %s", group.number, error)
                await asyncio.sleep(RESOLVE_RETRY_SECONDS)
        if lease is None or lease.epoch != self._lease.epoch:
            raise LeaseLost(f"partition {self._lease.partition} has a new owner")
        if lease.commit_number != group.number:
            raise StoreError(f"it did not happen: {reason}") from reason

    def _fail(self, group: Group, message: str = NOTHING_HAPPENED) -> None:
        """Undo everything that is not durable: this group and the one that was built upon it.

        message: what those who wait for this group are told.
        """
        self._failures += 1
        groups = [group]
        if self._open is not None and self._open is not group:
            groups.append(self._open)
        self._open = None
        if self._observer is not None:
            self._observer.commit_failed()
        self._on_failed(groups)
        for lost in groups:
            lost.effects.clear()
            lost.finish(unavailable(message if lost is group else NOTHING_HAPPENED))
