"""All task queues of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope

from perdure.core.clock import SECOND, Clock
from perdure.core.errors import resource_exhausted
from perdure.matching.pollers import NOTHING_SAID, POLLER_HISTORY, Poller, PollerDetails, always
from perdure.matching.task_queue import BACKLOG_BOUND, Observer, QueueKey, Task, TaskQueue

MOST_PRIORITY_LEVELS = 60
"""The official server takes no more; every queue keeps counters for each."""

SHUT_DOWN_FOR = 70 * SECOND
"""So long polls of a worker that has said goodbye are answered with nothing: one may have been on its way."""


class Admission:
    """A poll that is counted; leaving the context ends that."""

    __slots__ = ("_counter", "_polls")

    def __init__(self, polls: dict[tuple[str, int], int], counter: tuple[str, int]) -> None:
        self._polls = polls
        self._counter = counter

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._polls[self._counter] -= 1


class Matching:
    """Finds or makes queues by key, and lets polls wait.

    Queues are made on demand and dropped when nobody has polled them lately and nothing waits in them. backlog_bound: tasks that each queue
    made from now on keeps. priority_levels: of each queue.
    """

    def __init__(self, clock: Clock, *, priority_levels: int, backlog_bound: int = BACKLOG_BOUND) -> None:
        self.clock = clock
        self._priority_levels = min(max(priority_levels, 1), MOST_PRIORITY_LEVELS)
        self.queues: dict[QueueKey, TaskQueue] = {}
        self.observer: Observer | None = None
        #: Called when a queue that turned tasks away has room again; the owner of the tasks offers them once more.
        self.on_room: Callable[[TaskQueue], None] = lambda queue: None
        self.backlog_bound = backlog_bound
        self._draining = False
        self._sweep_at = 256
        self._polls: dict[tuple[str, int], int] = {}
        self._shut_down: dict[str, int] = {}

    def queue(self, key: QueueKey) -> TaskQueue:
        queue = self.queues.get(key)
        if queue is None:
            if len(self.queues) >= self._sweep_at:
                self._sweep()
            queue = self.queues[key] = TaskQueue(key, self.clock, self.backlog_bound, self._priority_levels, self._has_room, self.observer)
        return queue

    def find(self, key: QueueKey) -> TaskQueue | None:
        """A queue that somebody has used."""
        return self.queues.get(key)

    def unused(self, key: QueueKey) -> TaskQueue:
        """What there is to tell of a queue that nobody has used."""
        return TaskQueue(key, self.clock, self.backlog_bound, self._priority_levels, self._has_room)

    def unload(self, key: QueueKey) -> list[Task]:
        """Forget a queue (its worker is gone): waiting polls end empty, and whoever owns the tasks should look for another queue."""
        queue = self.queues.pop(key, None)
        if queue is None:
            return []
        queue.release()
        queue.end_observation()
        return queue.backlog_tasks()

    def admit(self, namespace_id: str, task_type: int, limit: int) -> Admission:
        """Count a poll for as long as it waits. Raises ApiError RESOURCE_EXHAUSTED beyond `limit` polls of one type in a namespace."""
        counter = (namespace_id, task_type)
        polls = self._polls.get(counter, 0) + 1
        if polls > limit:
            raise resource_exhausted(
                "namespace concurrent poller limit exceeded",
                ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
                ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
            )
        self._polls[counter] = polls
        return Admission(self._polls, counter)

    async def poll(
        self, key: QueueKey, identity: str, until: int, *, is_connected: Callable[[], bool] = always, worker_instance_key: str = "",
        details: PollerDetails = NOTHING_SAID,
    ) -> Task | None:  # fmt: skip
        """Wait for a task until a time (nanoseconds since the epoch). None: there was none.

        If the caller is cancelled after a task was given to it, the task goes back to the queue.
        """
        queue = self.queue(key)
        if self._draining or self._is_shut_down(worker_instance_key):
            return None
        future: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        poller = Poller(identity, future, is_connected, worker_instance_key)
        queue.wait(poller, details)
        task: Task | None = None
        if future.done():
            task = future.result()
        else:
            task = await self._wait(queue, poller, until)
            if not self._is_shut_down(worker_instance_key):
                queue.pollers.note(identity, details)
        if self.observer is not None:
            self.observer.poll_ended(queue, task)
        return task

    async def _wait(self, queue: TaskQueue, poller: Poller, until: int) -> Task | None:
        future = poller.future
        alarm = self.clock.call_at(until, poller.give_up)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (task := future.result()) is not None:
                self.queue(queue.key).put_back(task)
            raise
        finally:
            alarm.cancel()
            queue.forget(poller)

    def stop_worker(self, worker_instance_key: str, identity: str, keys: list[QueueKey]) -> int:
        """A worker says goodbye: end its waiting polls on these queues with nothing, and any that are still on their way.

        The queues forget who polled under its identity. Returns how many polls ended.
        """
        now = self.clock.now()
        self._shut_down = {worker: at for worker, at in self._shut_down.items() if at > now}
        self._shut_down[worker_instance_key] = now + SHUT_DOWN_FOR
        queues = [self.queues[key] for key in keys if key in self.queues]
        for queue in queues if identity else ():
            queue.pollers.forget(identity)
        return sum(queue.release(lambda poller: poller.worker_instance_key == worker_instance_key) for queue in queues)

    def drain(self) -> None:
        """Answer every waiting poll with nothing, and new ones at once."""
        self._draining = True
        for queue in self.queues.values():
            queue.release()

    def _is_shut_down(self, worker_instance_key: str) -> bool:
        return bool(worker_instance_key) and self._shut_down.get(worker_instance_key, 0) > self.clock.now()

    def _has_room(self, queue: TaskQueue) -> None:
        self.on_room(queue)

    def _sweep(self) -> None:
        """Forget queues that nobody uses any more."""
        for key, queue in list(self.queues.items()):
            if queue.is_idle and not queue.has_recent_poller(POLLER_HISTORY):
                del self.queues[key]
                queue.end_observation()
        self._sweep_at = max(256, 2 * len(self.queues))
