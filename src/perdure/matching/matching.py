"""All task queues of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from perdure.core.clock import Clock
from perdure.matching.task_queue import Poller, QueueKey, Task, TaskQueue


class Matching:
    """Finds or makes queues by key, and lets polls wait.

    Queues are made on demand and dropped when nobody has polled them lately and nothing waits in them.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.queues: dict[QueueKey, TaskQueue] = {}
        self._draining = False

    def queue(self, key: QueueKey) -> TaskQueue:
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = TaskQueue(key, self.clock)
        return queue

    def find(self, key: QueueKey) -> TaskQueue | None:
        """A queue that somebody has used."""
        return self.queues.get(key)

    async def poll(
        self, key: QueueKey, identity: str, until: int, *, is_connected: Callable[[], bool] = lambda: True, worker_instance_key: str = "",
        details: object = None,
    ) -> Task | None:  # fmt: skip
        """Wait for a task until a time (nanoseconds since the epoch). None: there was none.

        If the caller is cancelled after a task was given to it, the task goes back to the queue.
        """
        queue = self.queue(key)
        queue.note_poll(identity, details)
        task = queue.take()
        if task is not None or self._draining:
            return task
        future: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        poller = Poller(identity, future, is_connected, worker_instance_key)
        queue.wait(poller)
        alarm = self.clock.call_at(until, lambda: future.done() or future.set_result(None))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                task = future.result()
                if task is not None:
                    queue.add(task)
            raise
        finally:
            alarm.cancel()
            if not future.done() or future.cancelled() or future.result() is None:
                queue.forget(poller)
            queue.last_poll_at = self.clock.now()

    @contextmanager
    def held(self, key: QueueKey, task: Task) -> Generator[None]:
        """While a task is being given to its worker: if that fails (the store, a caller who has gone), the task goes back to its queue.

        It may have been claimed nevertheless; then the next worker finds it stale.
        """
        try:
            yield
        except BaseException:
            self.queue(key).add(task)
            raise

    def drain(self) -> None:
        """Answer every waiting poll with nothing, and new ones at once."""
        self._draining = True
        for queue in self.queues.values():
            queue.release()
