"""Calls that wait for something to happen, and the end of all waiting when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.core.clock import Alarm


class _Wait:
    """One callback of somebody who waits."""

    __slots__ = ("_waits", "callback")

    def __init__(self, waits: dict[_Wait, None], callback: Callable[[], None]) -> None:
        self._waits = waits
        self.callback = callback

    def cancel(self) -> None:
        """Forget the callback; harmless after it has run."""
        self._waits.pop(self, None)


class Waits:
    """Tells everyone who waits when the server is about to stop."""

    def __init__(self) -> None:
        #: Whether the server is about to stop: nothing is waited for any more.
        self.are_over = False
        self._waits: dict[_Wait, None] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def on_end(self, callback: Callable[[], None]) -> Alarm:
        """Call back once when all waiting ends, soon if it has ended. Must be quick and must not raise."""
        if self.are_over:
            return asyncio.get_running_loop().call_soon(callback)
        wait = _Wait(self._waits, callback)
        self._waits[wait] = None
        return wait

    def end(self) -> None:
        """The server is about to stop: end all waiting, now and from now on."""
        self.are_over = True
        waits, self._waits = self._waits, {}
        for wait in waits:
            wait.callback()
