"""Where writing to a SQLite file happens: on the event loop while the disk is quick, otherwise on a thread.

To hand a commit to a thread and back costs the event loop more than a commit takes on a quick disk; on a slow disk the loop must not wait
for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")

# An event loop that never rests can keep the interpreter lock for seconds: it gives it up at every look at its sockets, but has it back
# before the writer is awake. So when a piece of work takes longer than usual (_PATIENCE, seconds), the loop stands back now and then for a
# moment that is long enough to wake up in (_STAND_BACK, seconds). A commit under a loop that never rests then takes some 5 ms.
_PATIENCE = 0.001
_STAND_BACK = 0.000_1

QUICK_SECONDS = 0.001
"""Work that waits for the disk no longer than this on average is done on the event loop: calls do not notice."""
STALL_SECONDS = 0.01
"""One wait for so long ends that at once."""
FIRST_PENALTY_SECONDS = 1.0
LONGEST_PENALTY_SECONDS = 60.0
"""So long everything goes to the thread then; twice as long each time, until work has been quick for as long as the last penalty was."""


class Pace:
    """Decides whether the event loop does the next piece of work itself. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._average = 0.0
        self._thread_until = 0.0
        self._penalty = FIRST_PENALTY_SECONDS

    def is_quick(self, now: float) -> bool:
        """Whether to do it here; if so, say :meth:`waited` afterwards."""
        return now >= self._thread_until

    def waited(self, seconds: float, now: float) -> None:
        """A piece of work was done on the event loop, and so long of it the processor had nothing to do for it.

        What a large commit takes of the processor does not count: a thread would need it too, and more.
        """
        self._average += (seconds - self._average) / 16
        if self._average > QUICK_SECONDS or seconds > STALL_SECONDS:
            self._average = 0.0
            self._thread_until = now + self._penalty
            self._penalty = min(self._penalty * 2, LONGEST_PENALTY_SECONDS)
        elif self._penalty > FIRST_PENALTY_SECONDS and now > self._thread_until + self._penalty:
            self._penalty = FIRST_PENALTY_SECONDS


class WriterThread:
    """Does pieces of work one after the other; those of one caller in the order they came."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Callable[[], object], asyncio.Future[object] | None] | None] = SimpleQueue()
        self._pace = Pace()
        #: Held by whoever works.
        self._working = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], Result], *, is_small: bool = True) -> Result:
        """Do a piece of work; its result or exception comes back. When the caller is cancelled the work is done nevertheless.

        is_small: the event loop may do it if the disk is quick.
        """
        begun = time.perf_counter()
        if is_small and self._pace.is_quick(begun) and self._queue.empty() and self._working.acquire(blocking=False):
            busy = time.thread_time()
            try:
                return work()
            finally:
                self._working.release()
                ended = time.perf_counter()
                self._pace.waited(ended - begun - (time.thread_time() - busy), ended)
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.put((work, future))  # type: ignore[arg-type]  # a future is invariant; this one only ever gets the work's own result
        nudge = self._loop.call_later(_PATIENCE, self._stand_back, future)
        try:
            return await future
        finally:
            nudge.cancel()

    def later(self, work: Callable[[], object]) -> None:
        """Run it after all that is waiting; nobody waits for it and it must not fail. May be called on the thread itself."""
        self._queue.put((work, None))

    def stop(self) -> None:
        """Finish what is queued, then end the thread; returns when it has ended."""
        self._queue.put(None)
        self._thread.join()

    def _stand_back(self, future: asyncio.Future[Result]) -> None:
        if not future.done():
            time.sleep(_STAND_BACK)
            self._loop.call_later(_PATIENCE, self._stand_back, future)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            work, future = entry
            result: object = None
            failure: BaseException | None = None
            try:
                with self._working:
                    result = work()
            except BaseException as error:  # whatever it is belongs to the caller
                failure = error
            if future is not None:
                self._answer(future, result, failure)

    def _answer(self, future: asyncio.Future[object], result: object, failure: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, future, result, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _resolve(future: asyncio.Future[object], result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
