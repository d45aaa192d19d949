"""Timers: one heap of (time of day, what to do) per partition, and one alarm for the earliest entry."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable

from perdure.core.clock import Alarm, Clock
from perdure.core.jobs import Job

log = logging.getLogger(__name__)


class Entry:
    """One waiting job. run None: forgotten (the execution was evicted or closed)."""

    __slots__ = ("at", "job", "run")

    def __init__(self, at: int, job: Job | None, run: Callable[[Entry], None]) -> None:
        self.at = at
        self.job = job
        self.run: Callable[[Entry], None] | None = run


class Timers:
    """Runs entries when their time comes, earliest first; entries of the same time in the order they were added."""

    #: Entries run per turn of the event loop, so that a million timers due at once do not starve calls.
    BATCH = 200

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Entry]] = []  # (at, order of adding, entry)
        self._alarm: Alarm | None = None
        self._alarm_at = 0
        self._order = 0
        self._forgotten = 0
        self._closed = False
        self._clock_set = clock.when_set(self._arm)

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: int, run: Callable[[Entry], None], job: Job | None = None) -> Entry:
        """Call run(entry) once the clock reaches `at`."""
        self._order += 1
        entry = Entry(at, job, run)
        heapq.heappush(self._heap, (at, self._order, entry))
        if self._alarm is None or at < self._alarm_at:
            self._arm()
        return entry

    async def until(self, at: int) -> None:
        """Wait until the clock reaches `at`."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = self.add(at, lambda entry: None if reached.done() else reached.set_result(None))
        try:
            await reached
        finally:
            self.forget([entry])

    def forget(self, entries: list[Entry]) -> None:
        """Drop entries that are not needed any more. They leave the heap when they come up, or when they are more than half of it."""
        for entry in entries:
            if entry.run is not None:
                entry.run = entry.job = None
                self._forgotten += 1
        if self._forgotten > 1000 and self._forgotten * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].run is not None]
            heapq.heapify(self._heap)
            self._forgotten = 0

    def close(self) -> None:
        self._closed = True
        self._clock_set.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._heap and self._heap[0][2].run is None:
            heapq.heappop(self._heap)
            self._forgotten -= 1
        if self._heap and not self._closed:
            self._alarm_at = self._heap[0][0]
            self._alarm = self._clock.call_at(self._alarm_at, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        now = self._clock.now()
        done = 0
        while self._heap and self._heap[0][0] <= now and done < self.BATCH:
            _, _, entry = heapq.heappop(self._heap)
            run, entry.run = entry.run, None
            if run is None:
                self._forgotten -= 1
                continue
            done += 1
            try:
                run(entry)
            except Exception:  # a bug of ours; the other timers go on
                log.exception("the timer of %s failed", entry.job)
        self._arm()
