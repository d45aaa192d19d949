"""The tasks that wait in a queue: ordered by priority, then shared out fairly among keys, then by age; bounded in number.

Fairness is stride scheduling: within one priority every task of a key moves the key on by 1/weight, and the key that is furthest behind
goes first. So a key that brings a thousand tasks at once delays the others by one task at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from perdure.core.clock import SECOND
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob

# The types of queues, as in ``temporal.api.enums.v1.TaskQueueType``: names are apart by type.
WORKFLOW_QUEUE = 1
ACTIVITY_QUEUE = 2
NEXUS_QUEUE = 3

DEFAULT_PRIORITY = 3
SMALLEST_WEIGHT = 0.001
LARGEST_WEIGHT = 1000.0
RATE_SECONDS = 30


class QueueKey(NamedTuple):
    """task_type: ``WORKFLOW_QUEUE`` or another of the types above."""

    namespace_id: str
    name: str
    task_type: int


class Task(msgspec.Struct, eq=False):
    """Something to hand to a worker.

    job: what the execution promised; the worker gets it only if the execution still says so. payload: for tasks that no journal knows
    (queries). added_at: for the backlog's age. priority: 1 (first) and up. fairness_key, fairness_weight: tasks of one priority are shared
    out among keys. is_sync: a poll was waiting when it came. turned_away: called when the queue is closed with the task in it (a payload's
    owner looks for another).
    """

    key: RunKey
    job: EffectJob | None
    added_at: int
    payload: object = None
    priority: int = DEFAULT_PRIORITY
    fairness_key: str = ""
    fairness_weight: float = 1.0
    is_sync: bool = False
    turned_away: Callable[[], None] | None = None
    #: Whether it is kept in a backlog.
    is_kept: bool = False


class Rate:
    """How many things happened per second, over the last half minute."""

    __slots__ = ("_counts", "_second")

    def __init__(self) -> None:
        self._counts = [0] * RATE_SECONDS
        self._second = 0

    def note(self, now: int) -> None:
        """One more, now (nanoseconds since the epoch)."""
        self._advance(now)
        self._counts[self._second % RATE_SECONDS] += 1

    def per_second(self, now: int) -> float:
        self._advance(now)
        return sum(self._counts) / RATE_SECONDS

    def _advance(self, now: int) -> None:
        second = now // SECOND
        if second == self._second:
            return
        for passed in range(max(self._second + 1, second - RATE_SECONDS + 1), second + 1):
            self._counts[passed % RATE_SECONDS] = 0
        self._second = max(self._second, second)


class _Level:
    """The tasks of one priority. heap: (pass, order of arrival, task). promised: how many of them have a job.

    ages: (time of arrival, order, task) of those with a job, and of some that have gone: they are dropped when they come to the top, and
    all at once when they are too many.
    """

    __slots__ = ("ages", "floor", "heap", "passes", "promised")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Task]] = []
        self.ages: list[tuple[int, int, Task]] = []
        self.promised = 0
        self.passes: dict[str, float] = {}
        self.floor = 0.0

    def add(self, task: Task, order: int) -> None:
        weight = min(max(task.fairness_weight, SMALLEST_WEIGHT), LARGEST_WEIGHT)
        position = max(self.passes.get(task.fairness_key, 0.0), self.floor) + 1.0 / weight
        self.passes[task.fairness_key] = position
        heapq.heappush(self.heap, (position, order, task))
        if len(self.passes) > 2 * len(self.heap) + 64:
            self.passes = {key: position for key, position in self.passes.items() if position > self.floor}
        if task.job is not None:
            self.promised += 1
            task.is_kept = True
            heapq.heappush(self.ages, (task.added_at, order, task))
            if len(self.ages) > 2 * self.promised + 64:
                self.ages = [entry for entry in self.ages if entry[2].is_kept]
                heapq.heapify(self.ages)

    def take(self) -> Task:
        """The first in line."""
        self.floor, _, task = heapq.heappop(self.heap)
        return self._let_go(task)

    def spill(self) -> Task:
        """One of the last in line."""
        # The last entry of a heap is a leaf: taking it away leaves a heap.
        return self._let_go(self.heap.pop()[2])

    def _let_go(self, task: Task) -> Task:
        if task.job is not None:
            self.promised -= 1
            task.is_kept = False
        return task

    def oldest_at(self) -> int | None:
        ages = self.ages
        while ages and not ages[0][2].is_kept:
            heapq.heappop(ages)
        return ages[0][0] if ages else None


class Backlog:
    """bound: how many tasks to keep; one more pushes out one of the last."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._levels: dict[int, _Level] = {}
        self._order = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        """All tasks, in no particular order."""
        for level in self._levels.values():
            for _, _, task in level.heap:
                yield task

    def add(self, task: Task) -> Task | None:
        """Keep a task; returns the one for which there is no room, if any: among the least urgent, not the first in line."""
        level = self._levels.get(task.priority)
        if level is None:
            level = self._levels[task.priority] = _Level()
        self._order += 1
        level.add(task, self._order)
        self._count += 1
        if self._count <= self.bound:
            return None
        self._count -= 1
        last = max(self._levels)
        spilled = self._levels[last].spill()
        self._tidy(last)
        return spilled

    def take(self) -> Task | None:
        """The next task, None when there is none."""
        if not self._levels:
            return None
        first = min(self._levels)
        task = self._levels[first].take()
        self._count -= 1
        self._tidy(first)
        return task

    def waiting(self) -> dict[int, tuple[int, int]]:
        """By priority: how many tasks with a job there are, and when the oldest was added. Costs nothing by their number."""
        return {
            priority: (level.promised, oldest_at)
            for priority, level in self._levels.items()
            if (oldest_at := level.oldest_at()) is not None
        }

    def _tidy(self, priority: int) -> None:
        if not self._levels[priority].heap:
            del self._levels[priority]
