"""An event loop and a clock on virtual time: nothing waits, time jumps to the next alarm when there is nothing left to do.

A whole server (without its network) runs on it deterministically: equal inputs give equal runs, to the nanosecond.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from perdure.core.clock import NOTICED_WITHIN, SECOND, Alarm

T = TypeVar("T")

EPOCH = 1_750_000_000 * SECOND
"""When virtual time begins, nanoseconds since the Unix epoch."""


class DeadlockError(Exception):
    """Everything waits for something that nobody is going to do: no callback is ready and no alarm is set."""


class _NoSelector(selectors.BaseSelector):
    """Waits for no file: waiting moves the loop's time forward instead."""

    def __init__(self, wait: Callable[[float | None], None]) -> None:
        self._wait = wait
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # The loop registers the pipe that wakes it up from other threads; there are none.
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._wait(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual.

    shuffle: puts callbacks that are ready at the same time into an order of its own. asyncio promises them in the order in which they
    became ready; no code of ours may depend on that, because over a real network and a real store that order is chance.
    """

    def __init__(self, shuffle: random.Random | None = None) -> None:
        self.elapsed = 0
        self._shuffle = shuffle
        super().__init__(_NoSelector(self._advance))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.elapsed / SECOND

    def _advance(self, timeout: float | None) -> None:
        ready = cast("deque[asyncio.Handle]", self._ready)  # type: ignore[attr-defined]  # pyright: ignore
        if ready:
            if self._shuffle is not None and len(ready) > 1:
                self._shuffle.shuffle(ready)
            return
        if timeout is None:
            raise DeadlockError("nothing is ready and no alarm is set")
        # Rounded up: an alarm must never find that its time has not come.
        self.elapsed += int(timeout * SECOND) + 1


class VirtualClock:
    """The clock of a server on a virtual-time loop; implements :class:`perdure.core.clock.Clock`.

    tick: nanoseconds that pass with each look at it: with 1 no two looks see the same time, as on a real machine. A wall clock can be set
    (:meth:`jump`) while alarms go on counting the loop's time, as on a real machine.
    """

    def __init__(self, loop: VirtualTimeLoop, start: int = EPOCH, *, tick: int = 0) -> None:
        self._loop = loop
        self._offset = start
        self._tick = tick
        self._listeners: list[_Listener] = []

    def now(self) -> int:
        """Nanoseconds since the Unix epoch."""
        self._loop.elapsed += self._tick
        return self._offset + self._loop.elapsed

    def elapsed(self) -> int:
        """Nanoseconds of the loop's time: setting the clock does not change it."""
        return self._loop.elapsed

    def jump(self, nanoseconds: int) -> None:
        """Set the clock forward (or back, when negative)."""
        self._offset += nanoseconds
        for listener in self._listeners:
            self._loop.call_later(NOTICED_WITHIN / SECOND, listener.ring)

    def call_at(self, at: int, callback: Callable[[], None]) -> Alarm:
        """Call back on the event loop in as much time as is left until `at` now."""
        return self._loop.call_later(max(0, at - self.now()) / SECOND, callback)

    def when_set(self, callback: Callable[[], None]) -> Alarm:
        """Call back each time that the clock was set, as late as a real clock may."""
        return _Listener(self._listeners, callback)


class _Listener:
    """A callback that waits for the clock to be set."""

    def __init__(self, listeners: list[_Listener], callback: Callable[[], None]) -> None:
        self._listeners = listeners
        self._callback = callback
        listeners.append(self)

    def cancel(self) -> None:
        if self in self._listeners:
            self._listeners.remove(self)

    def ring(self) -> None:
        if self in self._listeners:
            self._callback()


def run_virtual(main: Callable[[VirtualTimeLoop], Coroutine[Any, Any, T]], *, shuffle: random.Random | None = None) -> T:
    """Run a coroutine to its end on a virtual-time loop of its own, and cancel whatever it left behind.

    Raises what it raises, and DeadlockError when it can never end.
    """
    loop = VirtualTimeLoop(shuffle)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        with suppress(DeadlockError):
            left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
