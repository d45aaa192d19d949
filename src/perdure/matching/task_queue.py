"""A task queue: tasks meet pollers.

Soft state: it is filled from the executions that own the tasks, and losing it loses nothing. A task that nobody waits for is kept in the
backlog. Tasks beyond the backlog's bound are only counted: their executions still own them, and the queue says when it has room again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from perdure.core.clock import MILLISECOND, MINUTE, SECOND, Alarm, Clock
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob
from perdure.matching.backlog import DEFAULT_PRIORITY, RATE_SECONDS, Backlog, QueueKey, Rate, Task
from perdure.matching.pollers import Poller, PollerDetails, PollerHistory
from perdure.matching.rate_limit import RateLimit

__all__ = ["BACKLOG_BOUND", "DEFAULT_PRIORITY", "QueueKey", "Task", "TaskQueue"]

BACKLOG_BOUND = 20_000
"""Tasks that one queue keeps in memory (about half a kilobyte each)."""

SCALE_DOWN_AFTER = 1 * SECOND
SCALE_UP_BACKLOG_AGE = 200 * MILLISECOND
SCALE_UP_RATIO = 1.2
SCALING_HINTS_PER_SECOND = 10.0


class Observer(Protocol):
    """Told of what happens in queues, for metrics."""

    def dispatched(self, queue: TaskQueue, waited: int) -> None:
        """A task met a poll. waited: nanoseconds the task was in the queue."""
        ...

    def poll_ended(self, queue: TaskQueue, task: Task | None) -> None: ...

    def task_without_poller(self, queue: TaskQueue) -> None: ...

    def forgotten(self, queue: TaskQueue) -> None:
        """The queue is no more, or turns into another kind of queue: what its `observed` holds is not used any more."""
        ...


class TaskQueue:
    """One queue of one type in one namespace.

    bound: of the tasks kept in memory. priority_levels: what is less urgent than the last of them belongs to it. on_room(queue): called
    when tasks were turned away and there is room for half the bound again; the caller offers them once more.
    """

    def __init__(
        self, key: QueueKey, clock: Clock, bound: int, priority_levels: int, on_room: Callable[[TaskQueue], None],
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self.key = key
        self.is_sticky = False
        #: Whatever the observer keeps about this queue.
        self.observed: object = None
        self.pollers = PollerHistory(clock)
        self.added: dict[int, Rate] = {}
        self.dispatched: dict[int, Rate] = {}
        #: Tasks that were turned away and have not come back; an estimate.
        self.spilled = 0
        self._wants_refill = False
        self._is_refilling = False
        self.rate_limit: RateLimit | None = None
        self._held_back_at: int | None = None
        self._clock = clock
        self._priority_levels = priority_levels
        self._on_room = on_room
        self._observer = observer
        self._waiting: dict[int, Poller] = {}
        self._backlog = Backlog(bound)
        self._present: set[tuple[RunKey, EffectJob]] = set()
        self._hints = RateLimit(SCALING_HINTS_PER_SECOND, clock.now())
        self._alarm: Alarm | None = None

    def become_sticky(self) -> None:
        """It turns out that this is the own queue of one worker."""
        if not self.is_sticky:
            self.end_observation()
            self.is_sticky = True

    def end_observation(self) -> None:
        """Tell the observer that this queue, as it is, will not be seen again."""
        if self._observer is not None:
            self._observer.forgotten(self)
        self.observed = None

    # -- what people see ------------------------------------------------------------------------------
    @property
    def backlog_count(self) -> int:
        """Tasks that wait, without queries (nobody promised those)."""
        return len(self._present) + self.spilled

    @property
    def waiting_pollers(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with this queue but the memory of who polled."""
        return not self._waiting and not len(self._backlog) and not self.spilled

    def backlog_age(self) -> int:
        """Nanoseconds since the oldest waiting task was added; 0 without a backlog."""
        now = self._clock.now()
        return max(0, now - min((oldest_at for _, oldest_at in self._backlog.waiting().values()), default=now))

    @property
    def is_held_back(self) -> bool:
        """Whether the rate limit has made a task wait within the time over which rates are measured."""
        return self._held_back_at is not None and self._clock.now() - self._held_back_at < RATE_SECONDS * SECOND

    def backlog_by_priority(self) -> dict[int, tuple[int, int]]:
        """Of each priority that has any: how many tasks wait in memory, and when the oldest of them was added."""
        return self._backlog.waiting()

    def backlog_tasks(self) -> list[Task]:
        """The waiting tasks, in no particular order."""
        return list(self._backlog)

    def has_recent_poller(self, within: int) -> bool:
        """Whether somebody polls now, or did less than `within` nanoseconds ago and has not said goodbye."""
        return bool(self._waiting) or self.pollers.has_polled_within(within)

    def was_polled(self, within: int) -> bool:
        """Whether somebody polls now, or did less than `within` nanoseconds ago."""
        return bool(self._waiting) or self.pollers.was_polled_within(within)

    # -- tasks ----------------------------------------------------------------------------------------
    def add(self, task: Task) -> None:
        """Give the task to a waiting poller, or keep it. A task that is here already is ignored."""
        if task.priority > self._priority_levels:
            task.priority = self._priority_levels
        if task.job is not None:
            if (task.key, task.job) in self._present:
                return
            _rate(self.added, task.priority).note(self._clock.now())
        if not len(self._backlog) and (poller := self._next_poller()) is not None and self._rate_allows():
            task.is_sync = True
            self._give(poller, task)
            return
        if self._observer is not None and not self.has_recent_poller(MINUTE):
            self._observer.task_without_poller(self)
        self._keep(task)

    def put_back(self, task: Task) -> None:
        """A task that was handed out did not reach its worker."""
        self.add(task)

    @property
    def is_full(self) -> bool:
        """Whether tasks have been turned away since there was room."""
        return self._wants_refill

    @contextmanager
    def refilling(self) -> Generator[None]:
        """While tasks are offered that may have been turned away before: those are not counted again."""
        self._is_refilling = True
        try:
            yield
        finally:
            self._is_refilling = False

    def refilled(self) -> None:
        """Every task that there is was offered."""
        if not self._wants_refill:
            self.spilled = 0

    def was_stale(self) -> None:
        """A task that was handed out was wanted by nobody any more: it does not count for the rate limit."""
        if self.rate_limit is not None:
            self.rate_limit.give_back(self._clock.now())

    def remove(self, task: Task) -> None:
        """Forget a task without job (its owner no longer waits); harmless if it is not here."""
        task.payload = None

    def _keep(self, task: Task) -> None:
        if task.job is not None:
            self._present.add((task.key, task.job))
        spilled = self._backlog.add(task)
        if spilled is not None and spilled.job is not None:
            self._present.discard((spilled.key, spilled.job))
            self._wants_refill = True
            if spilled is not task or not self._is_refilling:
                self.spilled += 1
        if self._is_refilling and spilled is not task:
            self.spilled = max(0, self.spilled - 1)

    def _next_poller(self) -> Poller | None:
        """The poll that has waited longest and whose client is still there."""
        while self._waiting:
            poller = next(iter(self._waiting.values()))
            if not poller.future.done() and poller.is_connected():
                return poller
            self.forget(poller)
        return None

    def _give(self, poller: Poller, task: Task) -> None:
        self.forget(poller)
        if task.job is not None:
            now = self._clock.now()
            _rate(self.dispatched, task.priority).note(now)
            if self._observer is not None:
                self._observer.dispatched(self, now - task.added_at)
        poller.future.set_result(task)

    def _take(self) -> Task | None:
        """The next task of the backlog that is still wanted."""
        while (task := self._backlog.take()) is not None:
            if task.job is not None:
                self._present.discard((task.key, task.job))
            elif task.payload is None:
                continue
            if self._wants_refill and len(self._backlog) <= self._backlog.bound // 2:
                self._wants_refill = False
                self._on_room(self)
            return task
        return None

    def _dispatch(self) -> None:
        """Let the backlog meet the waiting polls."""
        while len(self._backlog) and (poller := self._next_poller()) is not None and self._rate_allows():
            task = self._take()
            if task is None:
                return
            task.is_sync = False
            self._give(poller, task)

    def _rate_allows(self) -> bool:
        """Whether a task may go out now; if not, the queue looks again when it may."""
        limit, now = self.rate_limit, self._clock.now()
        if limit is None or limit.take(now):
            return True
        self._held_back_at = now
        if self._alarm is None and (at := limit.next_at(now)) is not None:
            self._alarm = self._clock.call_at(at, self._rate_elapsed)
        return False

    def _rate_elapsed(self) -> None:
        self._alarm = None
        self._dispatch()

    def set_rate(self, per_second: float | None) -> None:
        """Hand out at most so many tasks per second (None: any number)."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = self._clock.now()
        if per_second is None:
            self.rate_limit = None
        elif self.rate_limit is None:
            self.rate_limit = RateLimit(per_second, now)
        else:
            self.rate_limit.change(per_second, now)
        self._dispatch()

    # -- polls ----------------------------------------------------------------------------------------
    def wait(self, poller: Poller, details: PollerDetails) -> None:
        """Queue a poll; its future ends with a task (perhaps at once), or with None when it was told to stop."""
        self.pollers.note(poller.identity, details)
        if details.rate_per_second is not None and (self.rate_limit is None or self.rate_limit.per_second != details.rate_per_second):
            self.set_rate(details.rate_per_second)
        self._waiting[id(poller)] = poller
        self._dispatch()

    def forget(self, poller: Poller) -> None:
        """A poll ended."""
        self._waiting.pop(id(poller), None)

    def release(self, accept: Callable[[Poller], bool] = lambda poller: True) -> int:
        """End waiting polls with empty answers; returns how many."""
        released = [poller for poller in self._waiting.values() if accept(poller)]
        for poller in released:
            self.forget(poller)
            poller.give_up()
        return len(released)

    def scaling_hint(self, task: Task, waited: int) -> int:
        """By how many polls the worker should have more (1) or fewer (-1); 0 for no opinion.

        task: what this poll got. waited: how long it waited for it, nanoseconds.
        """
        if waited >= SCALE_DOWN_AFTER and task.is_sync:
            return -1
        now = self._clock.now()
        self._hints.change(SCALING_HINTS_PER_SECOND * max(1, len(self.pollers)), now)
        if not self._hints.take(now) or self.is_held_back:
            return 0
        if self.backlog_count and self.backlog_age() > SCALE_UP_BACKLOG_AGE:
            return 1
        added = sum(rate.per_second(now) for rate in self.added.values())
        dispatched = sum(rate.per_second(now) for rate in self.dispatched.values())
        return 1 if added > SCALE_UP_RATIO * dispatched else 0


def _rate(rates: dict[int, Rate], priority: int) -> Rate:
    rate = rates.get(priority)
    if rate is None:
        rate = rates[priority] = Rate()
    return rate
