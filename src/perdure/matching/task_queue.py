"""A task queue: tasks meet pollers.

Soft state: it is filled from the executions that own the tasks, and losing it loses nothing. A task that nobody waits for is kept in the backlog,
ordered by priority, then fairness, then age.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.core.clock import MINUTE, SECOND, Clock
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob

DEFAULT_PRIORITY = 3
POLLER_HISTORY = 5 * MINUTE
RATE_WINDOW = 30 * SECOND


class QueueKey(NamedTuple):
    """task_type: ``temporal.api.enums.v1.TaskQueueType``."""

    namespace_id: str
    name: str
    task_type: int


@dataclass(slots=True, eq=False)
class Task:
    """Something to hand to a worker.

    job: what the execution promised; the worker gets it only if the execution still says so. payload: for tasks that no journal knows (queries).
    added_at: for the backlog's age. priority: 1 (first) and up. fairness_key, fairness_weight: tasks of one priority are shared out among keys.
    """

    key: RunKey
    job: EffectJob | None
    added_at: int
    payload: object = None
    priority: int = DEFAULT_PRIORITY
    fairness_key: str = ""
    fairness_weight: float = 1.0
    is_sync: bool = False


@dataclass(slots=True, eq=False)
class Poller:
    """A waiting poll. is_connected: asked before a task is handed over, so that a poll whose client has gone takes none."""

    identity: str
    future: asyncio.Future[Task | None]
    is_connected: Callable[[], bool]
    worker_instance_key: str = ""


@dataclass(slots=True)
class PollerInfo:
    """Who polled lately, for people."""

    identity: str
    last_access_at: int
    details: object = None


@dataclass(slots=True)
class Rates:
    """Tasks added and dispatched in the last half minute."""

    added: deque[int] = field(default_factory=deque[int])
    dispatched: deque[int] = field(default_factory=deque[int])

    def rate(self, times: deque[int], now: int) -> float:
        """Per second."""
        while times and times[0] < now - RATE_WINDOW:
            times.popleft()
        return len(times) / (RATE_WINDOW / SECOND)


class TaskQueue:
    """One queue of one type in one namespace."""

    def __init__(self, key: QueueKey, clock: Clock) -> None:
        self.key = key
        self.pollers: dict[str, PollerInfo] = {}
        self.rates = Rates()
        self.last_poll_at = 0
        self._clock = clock
        self._waiting: deque[Poller] = deque()
        self._backlog: list[tuple[int, float, int, Task]] = []
        self._present: set[tuple[RunKey, EffectJob]] = set()
        self._order = 0
        self._passes: dict[str, float] = {}
        self._pass = 0.0

    @property
    def backlog_count(self) -> int:
        return len(self._backlog)

    @property
    def waiting_pollers(self) -> int:
        return len(self._waiting)

    def backlog_age(self) -> int:
        """Nanoseconds since the oldest waiting task was added; 0 without a backlog."""
        return self._clock.now() - min(task.added_at for *_, task in self._backlog) if self._backlog else 0

    def backlog_tasks(self) -> list[Task]:
        """The waiting tasks, in no particular order."""
        return [task for *_, task in self._backlog]

    def has_recent_poller(self, within: int) -> bool:
        """Whether somebody polls now, or did less than `within` nanoseconds ago."""
        return bool(self._waiting) or (self.last_poll_at > 0 and self._clock.now() - self.last_poll_at < within)

    def add(self, task: Task) -> None:
        """Give the task to a waiting poller, or keep it. A task that is here already is ignored."""
        now = self._clock.now()
        if task.job is not None:
            if (task.key, task.job) in self._present:
                return
            self.rates.added.append(now)
        while self._waiting:
            poller = self._waiting.popleft()
            if not poller.future.done() and poller.is_connected():
                task.is_sync = True
                self.rates.dispatched.append(now)
                poller.future.set_result(task)
                return
        self._order += 1
        heapq.heappush(self._backlog, (task.priority, self._fair_pass(task), self._order, task))
        if task.job is not None:
            self._present.add((task.key, task.job))

    def _fair_pass(self, task: Task) -> float:
        """Stride scheduling: every key advances by 1/weight for each of its tasks; the key that is furthest behind goes first."""
        if not task.fairness_key:
            return self._pass
        position = max(self._passes.get(task.fairness_key, 0.0), self._pass) + 1.0 / max(task.fairness_weight, 0.001)
        self._passes[task.fairness_key] = position
        return position

    def take(self) -> Task | None:
        """The next task of the backlog."""
        if not self._backlog:
            return None
        _, fair_pass, _, task = heapq.heappop(self._backlog)
        self._pass = max(self._pass, fair_pass)
        if not self._backlog:
            self._passes.clear()
            self._pass = 0.0
        if task.job is not None:
            self._present.discard((task.key, task.job))
        self.rates.dispatched.append(self._clock.now())
        return task

    def wait(self, poller: Poller) -> None:
        """Queue a poll; its future ends with a task, or with None when it was told to stop."""
        self._waiting.append(poller)

    def forget(self, poller: Poller) -> None:
        """A poll ended without a task."""
        if poller in self._waiting:
            self._waiting.remove(poller)

    def release(self, accept: Callable[[Poller], bool] = lambda poller: True) -> None:
        """End waiting polls with empty answers (shutdown)."""
        for poller in list(self._waiting):
            if accept(poller) and not poller.future.done():
                self._waiting.remove(poller)
                poller.future.set_result(None)

    def note_poll(self, identity: str, details: object = None) -> None:
        """Remember who polls."""
        now = self._clock.now()
        self.last_poll_at = now
        self.pollers[identity] = PollerInfo(identity, now, details)
        if len(self.pollers) > 64:
            self.recent_pollers()

    def recent_pollers(self) -> list[PollerInfo]:
        """Who polled within the last five minutes."""
        horizon = self._clock.now() - POLLER_HISTORY
        for identity in [i for i, info in self.pollers.items() if info.last_access_at < horizon]:
            del self.pollers[identity]
        return list(self.pollers.values())
