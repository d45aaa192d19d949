"""One thread that does all writing to a SQLite file, so that waiting for the disk never holds up the event loop."""

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


class WriterThread:
    """Runs pieces of work one after the other, in the order they came."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Callable[[], object], asyncio.Future[object] | None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run it on the thread; its result or exception comes back. When the caller is cancelled the work is done nevertheless."""
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
