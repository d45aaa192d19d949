"""Time as an argument: one source of "now" for the whole server.

All times inside the server are integers: nanoseconds since the Unix epoch (``…_at`` and ``now``) or nanoseconds of duration
(``…_timeout``, ``…_interval``). Protobuf timestamps and durations are converted at the edges, here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Alarm(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Forget the callback; harmless after it has run."""
        ...


class Clock(Protocol):
    """Where the server gets its time and its alarms from; a test or the simulator gives a virtual one."""

    def now(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...

    def elapsed(self) -> int:
        """Nanoseconds since some moment; grows evenly, whatever the wall clock is set to."""
        ...

    def call_at(self, at: int, callback: Callable[[], None]) -> Alarm:
        """Call back on the event loop in as much time as is left until `at` now. If the clock is set meanwhile, that is another time: for
        whoever waits for a time of day, :meth:`when_set` is the moment to ask again."""
        ...

    def when_set(self, callback: Callable[[], None]) -> Alarm:
        """Call back each time that the clock was set (or the machine has slept), at most ``NOTICED_WITHIN`` later, until cancelled."""
        ...


NOTICED_WITHIN = SECOND
SET_BY = SECOND // 10
"""A clock that is further off than this, measured by one that nobody sets, was set."""

# The time that a machine sleeps counts: others have gone on meanwhile. Not every system has a clock that knows it.
_ELAPSED: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The wall clock; alarms through the running event loop."""

    now = staticmethod(time.time_ns)
    elapsed = staticmethod(partial(time.clock_gettime_ns, _ELAPSED))

    def call_at(self, at: int, callback: Callable[[], None]) -> Alarm:
        # The event loop cannot sleep longer than a day at a time on every platform; owners re-arm their alarm when it fires early.
        delay = min(max(0, at - self.now()) / SECOND, 86_400.0)
        return asyncio.get_running_loop().call_later(delay, callback)

    def when_set(self, callback: Callable[[], None]) -> Alarm:
        return _Lookout(self, callback)


class _Lookout:
    """Compares the wall clock with the event loop's, which stands still while the machine sleeps: alarms do, too."""

    __slots__ = ("_ahead", "_alarm", "_callback", "_clock", "_loop")

    def __init__(self, clock: SystemClock, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._callback = callback
        self._ahead = self._measure()
        self._alarm = self._loop.call_later(NOTICED_WITHIN / SECOND, self._look)

    def cancel(self) -> None:
        self._alarm.cancel()

    def _measure(self) -> int:
        return self._clock.now() - int(self._loop.time() * SECOND)

    def _look(self) -> None:
        self._alarm = self._loop.call_later(NOTICED_WITHIN / SECOND, self._look)
        ahead = self._measure()
        if abs(ahead - self._ahead) > SET_BY:
            self._ahead = ahead
            self._callback()


def duration_ns(duration: Duration) -> int:
    """Nanoseconds of a protobuf duration; an unset one is 0."""
    return duration.seconds * SECOND + duration.nanos


def to_duration(nanoseconds: int) -> Duration:
    """A protobuf duration of so many nanoseconds (whole seconds and nanos carry the same sign)."""
    if nanoseconds < 0:
        seconds, nanos = divmod(-nanoseconds, SECOND)
        return Duration(seconds=-seconds, nanos=-nanos)
    return Duration(seconds=nanoseconds // SECOND, nanos=nanoseconds % SECOND)


def timestamp_ns(timestamp: Timestamp) -> int:
    """Nanoseconds since the epoch of a protobuf timestamp."""
    return timestamp.seconds * SECOND + timestamp.nanos


def to_timestamp(nanoseconds: int) -> Timestamp:
    """A protobuf timestamp of nanoseconds since the epoch."""
    return Timestamp(seconds=nanoseconds // SECOND, nanos=nanoseconds % SECOND)
