"""What keeps a partition going in the background: its lease, the executions that sleep in the store, and the removal of expired ones."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from perdure.core.clock import SECOND, Clock
from perdure.core.errors import ApiError
from perdure.core.execution import ChainKey, RunKey
from perdure.engine.loader import run_key
from perdure.engine.partition import Partition
from perdure.engine.timers import Entry
from perdure.store.protocol import Header, Lease, Store, StoreError

log = logging.getLogger(__name__)

HORIZON = 60 * SECOND
"""Executions whose next wake-up is nearer than this have an entry in the timers; the others are found in the store in time."""

BATCH = 1000

LOADS = 100
FULL_PAUSE = SECOND // 100
"""Executions whose time has come are loaded so many at a time, with a pause after each time while memory is full: what came before them
has to be committed before it can make room."""
RELEASE_SECONDS = 1.0
"""The lease of a store that does not answer runs out by itself."""
EXPIRY_INTERVAL = 30 * SECOND
EXPIRY_BATCH = 200


async def until(clock: Clock, at: int) -> None:
    """Wait on the server's clock, which may be a virtual one, for as long as it is now until `at`, even if the clock is set meanwhile."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    alarm = clock.call_at(at, wake)
    try:
        await done
    finally:
        alarm.cancel()


class Upkeep:
    """Owns the background loops of one partition."""

    def __init__(self, partition: Partition, store: Store, lease: Lease, lease_time: int) -> None:
        self._partition = partition
        self._store = store
        self._lease = lease
        self._lease_time = lease_time
        self._clock = partition.clock
        self._tasks: list[asyncio.Task[None]] = []
        self._sleeping: dict[RunKey, Entry] = {}
        self._scanned_until = 0
        self._woken: deque[RunKey] = deque()
        self._has_woken = asyncio.Event()
        partition.on_evicted = self._evicted
        self._spawn(self._keep_lease(), "lease")

    def start(self) -> None:
        self._scanned_until = self._clock.now() + HORIZON
        self._spawn(self._find_ready(), "ready")
        self._spawn(self._find_due(), "due")
        self._spawn(self._load_woken(), "woken")
        self._spawn(self._remove_expired(), "expiry")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def release(self) -> None:
        """Let the next owner in at once. A lease that somebody else has by now is left alone."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._store.release_lease(self._lease)
        except (StoreError, TimeoutError) as error:
            log.warning("cannot give back the lease of partition %d; it runs out by itself: %s", self._lease.partition, error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{name}-{self._partition.number}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._partition.writer.break_down(f"task {task.get_name()}", error)

    # -- lease ------------------------------------------------------------------------------------------
    async def _keep_lease(self) -> None:
        tenure = self._partition.tenure
        pause = max(0, self._lease_time // 3 - tenure.age)  # to get the leases of all partitions may have taken a while
        while True:
            await until(self._clock, self._clock.now() + pause)
            if self._partition.writer.is_fenced:
                return
            pause = self._lease_time // 3
            now, asked_at = self._clock.now(), self._clock.elapsed()
            try:
                kept = await self._store.renew_lease(self._lease, now, now + self._lease_time)
            except StoreError as error:
                log.warning("cannot renew the lease of partition %d: %s", self._lease.partition, error)
                pause = self._lease_time // 20
                continue
            if kept:
                tenure.renewed(asked_at)
            else:
                self._partition.writer.fence()
                return

    # -- sleeping executions ------------------------------------------------------------------------------
    def _evicted(self, key: RunKey, wake_at: int | None) -> None:
        # Work that waits for a worker is in its task queue already; only the passing of time has to be watched.
        if wake_at is None:
            return
        if wake_at <= self._clock.now():
            self._wake(key)
        elif wake_at < self._scanned_until:
            self._sleep(key, wake_at)

    def _sleep(self, key: RunKey, wake_at: int) -> None:
        sleeping = self._sleeping.get(key)
        if sleeping is not None and wake_at < sleeping.at:
            self._partition.timers.forget([sleeping])
            sleeping = None
        if sleeping is None:
            self._sleeping[key] = self._partition.timers.add(wake_at, lambda entry: self._wake(key))

    def _wake(self, key: RunKey) -> None:
        if (sleeping := self._sleeping.pop(key, None)) is not None:
            self._partition.timers.forget([sleeping])
        self._woken.append(key)
        self._has_woken.set()

    async def _load_woken(self) -> None:
        """Bring in the executions whose time has come, no more at a time than there is room for."""
        cache, writer = self._partition.cache, self._partition.writer
        while True:
            await self._has_woken.wait()
            self._has_woken.clear()
            while self._woken:
                keys = [self._woken.popleft() for _ in range(min(LOADS, len(self._woken)))]
                await asyncio.gather(*(self._load(key) for key in keys))
                cache.trim()
                if cache.is_over:
                    await until(self._clock, self._clock.now() + FULL_PAUSE)
                while writer.is_full:
                    await until(self._clock, self._clock.now() + FULL_PAUSE)

    async def _load(self, key: RunKey) -> None:
        """Loading derives the jobs, and those that are due run."""
        try:
            await self._partition.loader.chain(key.chain, key.run_id)
        except Exception as error:
            log.warning("cannot load %s: %s; trying again", key, error)
            # Not a time of day: it has to come soon, even if the clock is set back meanwhile.
            self._clock.call_at(self._clock.now() + SECOND, lambda: self._wake(key))

    async def _find_due(self) -> None:
        """Every half horizon, put an entry into the timers for each sleeping execution that wakes up within the next one."""
        while True:
            try:
                headers = await self._store.find_due(self._partition.slots, self._scanned_until, BATCH * 100)
                for header in headers:
                    if header.wake_at is not None and not self._in_memory(header):
                        self._sleep(run_key(header), header.wake_at)
            except StoreError as error:
                log.warning("cannot look for sleeping executions: %s; trying again", error)
                await until(self._clock, self._clock.now() + SECOND)
                continue
            await self._partition.timers.until(self._scanned_until - HORIZON // 2)
            self._scanned_until = self._clock.now() + HORIZON

    async def _find_ready(self) -> None:
        """After a start: load what had work to hand out, a batch at a time, while calls are already being served."""
        after = 0
        while True:
            try:
                headers = await self._store.find_ready(self._partition.slots, after, BATCH)
            except StoreError as error:
                log.warning("cannot look for waiting work: %s; trying again", error)
                await until(self._clock, self._clock.now() + SECOND)
                continue
            for header in headers:
                after = header.uid
                if not self._in_memory(header):
                    await self._load(run_key(header))
                    self._partition.cache.trim()
            if len(headers) < BATCH:
                return

    def _in_memory(self, header: Header) -> bool:
        chain = self._partition.cache.chains.get(ChainKey(header.namespace_id, header.kind, header.business_id))
        return chain is not None and header.run_id in chain.runs

    # -- expiry -------------------------------------------------------------------------------------------
    async def _remove_expired(self) -> None:
        while True:
            try:
                headers: Sequence[Header] = await self._store.find_expired(self._partition.slots, self._clock.now(), EXPIRY_BATCH)
                await self._partition.delete_expired(headers)
            except (StoreError, ApiError) as error:
                log.warning("cannot remove expired executions: %s", error)
                headers = ()
            if len(headers) < EXPIRY_BATCH:
                await until(self._clock, self._clock.now() + EXPIRY_INTERVAL)
