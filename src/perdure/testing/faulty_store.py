"""A store that fails the way databases do, as a seed decides."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perdure.core.clock import SECOND
from perdure.store.protocol import Commit, CommitUnknown, Header, JournalRow, Lease, Resource, SideRow, Snapshot, Store, StoreError

T = TypeVar("T")

background: set[asyncio.Task[None]] = set()
"""Commits that are landing; the event loop itself holds its tasks weakly only."""


@dataclass(slots=True)
class StoreFaults:
    """How often a store fails: probabilities from 0 to 1, and delays in seconds.

    commit_fails: nothing of it happened. commit_unknown: the connection broke in the middle; it happened or not, half of the time each.
    read_fails: also renewing a lease. lost: how long the connection is gone after an unknown commit, at most. delay: of every commit and
    read, at most; slow: a commit takes slow_delay, at most, instead.
    """

    commit_fails: float = 0.0
    commit_unknown: float = 0.0
    read_fails: float = 0.0
    slow: float = 0.0
    delay: float = 0.0
    slow_delay: float = 0.0
    lost: float = 0.0


@dataclass(slots=True)
class StoreCounts:
    """What happened, for people."""

    commits: int = 0
    failed: int = 0
    unknown: int = 0
    reads_failed: int = 0


@dataclass(slots=True)
class CommitsInDoubt:
    """Commits whose connection broke and which the database has not finished: they may happen yet. Shared by all connections to a store.

    As in PostgreSQL, whoever asks for the lease waits for them; whoever reads does not.
    """

    landing: asyncio.Future[None] | None = None

    async def ended(self) -> None:
        """Wait until there are none."""
        while self.landing is not None and not self.landing.done():
            await asyncio.wait([self.landing])


def _database_now() -> int:
    """The database has a clock of its own."""
    return int(asyncio.get_running_loop().time() * SECOND)


@dataclass(slots=True)
class FaultyStore:
    """One server's connection to a store; implements :class:`perdure.store.protocol.Store`.

    base: the store itself, opened and closed by its owner. rng: decides about faults.
    """

    base: Store
    rng: random.Random
    faults: StoreFaults = field(default_factory=StoreFaults)
    counts: StoreCounts = field(default_factory=StoreCounts)
    in_doubt: CommitsInDoubt = field(default_factory=CommitsInDoubt)
    _is_cut: bool = False
    _stalled: asyncio.Future[None] | None = None
    _is_away: bool = False
    _has_commits: bool = False
    _lost_until: float = 0.0
    description: str = ""
    #: Other servers may take over from this one.
    is_shared: bool = True

    def __post_init__(self) -> None:
        self.description = f"faulty {self.base.description}"

    def cut(self) -> None:
        """The server is dead: whatever is left of it reaches the store no more."""
        self._is_cut = True

    def stall(self) -> None:
        """From now on no commit is answered, nor does it happen; reads are."""
        self._stalled = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        """Go on with the commits that wait, and all others."""
        stalled, self._stalled = self._stalled, None
        if stalled is not None and not stalled.done():
            stalled.set_result(None)

    def go_away(self) -> None:
        """The network between this server and its database has broken: nothing works any more, and commits on their way are lost."""
        self._is_away = True

    async def open(self) -> None:
        """The base is open already."""

    async def close(self) -> None:
        """The base stays open: the next server uses it."""

    # -- faults ---------------------------------------------------------------------------------------
    async def commit(self, commit: Commit) -> None:
        faults = self.faults
        self._has_commits = True
        await self._reach()
        while self._stalled is not None:
            await asyncio.wait([self._stalled])
        if faults.slow and self.rng.random() < faults.slow:
            await asyncio.sleep(self.rng.uniform(0, faults.slow_delay))
        await self._pause()
        chance = self.rng.random()
        if chance < faults.commit_fails:
            self.counts.failed += 1
            raise StoreError("injected: the commit failed")
        is_unknown = chance < faults.commit_fails + faults.commit_unknown
        happens = not is_unknown or self.rng.random() < 0.5
        await self.in_doubt.ended()
        await self._reach()
        if self._is_away:
            self.counts.unknown += 1
            raise CommitUnknown("injected: the connection broke, for good")
        if is_unknown:
            self.counts.unknown += 1
            now = asyncio.get_running_loop().time()
            self._lost_until = now + self.rng.uniform(0, faults.lost)
            if happens:
                self._land_later(commit, now + self.rng.choice((0.0, 0.0, faults.lost)) * self.rng.random())
            raise CommitUnknown("injected: the connection broke")
        await self.base.commit(commit)
        self.counts.commits += 1
        await self._pause()

    def _land_later(self, commit: Commit, at: float) -> None:
        """The database finishes the commit by itself, whatever becomes of this server."""
        loop = asyncio.get_running_loop()
        landing = self.in_doubt.landing = loop.create_future()

        async def land() -> None:
            await asyncio.sleep(at - loop.time())
            # Its fence was passed when it began, and its lease cannot have changed hands since.
            await self.base.commit(commit)
            self.counts.commits += 1
            landing.set_result(None)

        task = contextvars.Context().run(lambda: loop.create_task(land()))
        background.add(task)
        task.add_done_callback(background.discard)

    async def _read(self, read: Callable[..., Awaitable[T]], *arguments: Any, **named: Any) -> T:
        await self._reach()
        if self._is_away or asyncio.get_running_loop().time() < self._lost_until or self.rng.random() < self.faults.read_fails:
            self.counts.reads_failed += 1
            await self._pause()
            raise StoreError("injected: no connection")
        await self._pause()
        answer = await read(*arguments, **named)
        await self._pause()
        return answer

    async def _pause(self) -> None:
        if self.faults.delay:
            await asyncio.sleep(self.rng.uniform(0, self.faults.delay))
        await self._reach()

    async def _reach(self) -> None:
        if self._is_cut:
            await asyncio.get_running_loop().create_future()

    # -- leases -----------------------------------------------------------------------------------------
    async def acquire_lease(self, partition: int, owner: str, now: int, until: int) -> Lease | None:
        # A server that cannot get its lease does not start: no fault here.
        await self.in_doubt.ended()
        return await self.base.acquire_lease(partition, owner, _database_now(), _database_now() + until - now)

    async def renew_lease(self, lease: Lease, now: int, until: int) -> bool:
        await self.in_doubt.ended()
        return await self._read(self._renew_lease, lease, until - now)

    async def _renew_lease(self, lease: Lease, lease_time: int) -> bool:
        return await self.base.renew_lease(lease, _database_now(), _database_now() + lease_time)

    async def release_lease(self, lease: Lease) -> None:
        await self._read(self.base.release_lease, lease)

    async def read_lease(self, partition: int) -> Lease | None:
        await self.in_doubt.ended()
        if not self._has_commits and not self._is_away:
            return await self.base.read_lease(partition)  # a server that is starting: see acquire_lease
        return await self._read(self.base.read_lease, partition)

    # -- executions -------------------------------------------------------------------------------------
    async def find_current(self, namespace_id: str, kind: str, business_id: str) -> Header | None:
        return await self._read(self.base.find_current, namespace_id, kind, business_id)

    async def find_run(self, namespace_id: str, kind: str, business_id: str, run_id: str) -> Header | None:
        return await self._read(self.base.find_run, namespace_id, kind, business_id, run_id)

    async def read_journal(self, uid: int, after_sequence: int = 0) -> Sequence[JournalRow]:
        return await self._read(self.base.read_journal, uid, after_sequence)

    async def read_history(self, uid: int, first_event_id: int, limit: int, *, reverse: bool = False) -> Sequence[JournalRow]:
        return await self._read(self.base.read_history, uid, first_event_id, limit, reverse=reverse)

    async def read_snapshot(self, uid: int, version: str) -> Snapshot | None:
        return await self._read(self.base.read_snapshot, uid, version)

    async def read_side(self, uid: int) -> Sequence[SideRow]:
        return await self._read(self.base.read_side, uid)

    async def find_ready(self, slots: range, after_uid: int, limit: int) -> Sequence[Header]:
        return await self._read(self.base.find_ready, slots, after_uid, limit)

    async def find_due(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        return await self._read(self.base.find_due, slots, before, limit)

    async def find_expired(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        return await self._read(self.base.find_expired, slots, before, limit)

    async def list_headers(
        self, namespace_id: str, kind: str, *, open_only: bool | None = None, after: tuple[int, int] | None = None, limit: int = 1000
    ) -> Sequence[Header]:
        return await self._read(self.base.list_headers, namespace_id, kind, open_only=open_only, after=after, limit=limit)

    async def count_headers(self, namespace_id: str, kind: str, *, open_only: bool | None = None) -> int:
        return await self._read(self.base.count_headers, namespace_id, kind, open_only=open_only)

    # -- resources --------------------------------------------------------------------------------------
    async def list_resources(self, kind: str) -> Sequence[Resource]:
        return await self.base.list_resources(kind)

    async def put_resource(self, resource: Resource, expected_version: int) -> bool:
        return await self.base.put_resource(resource, expected_version)

    async def delete_resource(self, kind: str, id: str, expected_version: int | None = None) -> bool:
        return await self.base.delete_resource(kind, id, expected_version)

    async def read_metadata(self, name: str) -> str | None:
        return await self.base.read_metadata(name)

    async def write_metadata(self, name: str, value: str) -> str:
        return await self.base.write_metadata(name, value)
