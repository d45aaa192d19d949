"""Timers: one heap of (time, what to do) per partition, and one alarm for the earliest entry."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from perdure.core.clock import Alarm, Clock
from perdure.core.jobs import Job


class Entry:
    """One waiting job. run None: forgotten (the execution was evicted or closed)."""

    __slots__ = ("at", "job", "order", "run")

    def __init__(self, at: int, order: int, job: Job | None, run: Callable[[Entry], None]) -> None:
        self.at = at
        self.order = order
        self.job = job
        self.run: Callable[[Entry], None] | None = run

    def __lt__(self, other: Entry) -> bool:
        return (self.at, self.order) < (other.at, other.order)


class Timers:
    """Runs entries when their time comes, earliest first; entries of the same time in the order they were added."""

    #: Entries run per turn of the event loop, so that a million timers due at once do not starve calls.
    BATCH = 200

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[Entry] = []
        self._alarm: Alarm | None = None
        self._alarm_at = 0
        self._order = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: int, run: Callable[[Entry], None], job: Job | None = None) -> Entry:
        """Call run(entry) once the clock reaches `at`."""
        self._order += 1
        entry = Entry(at, self._order, job, run)
        heapq.heappush(self._heap, entry)
        if self._alarm is None or at < self._alarm_at:
            self._arm()
        return entry

    def close(self) -> None:
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._heap and self._heap[0].run is None:
            heapq.heappop(self._heap)
        if self._heap and not self._closed:
            self._alarm_at = self._heap[0].at
            self._alarm = self._clock.call_at(self._alarm_at, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        now = self._clock.now()
        done = 0
        while self._heap and self._heap[0].at <= now and done < self.BATCH:
            entry = heapq.heappop(self._heap)
            run, entry.run = entry.run, None
            if run is not None:
                done += 1
                run(entry)
        self._arm()
