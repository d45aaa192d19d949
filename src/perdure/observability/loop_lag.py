"""How late the event loop runs what is due: the wait that every call shares."""

from __future__ import annotations

import asyncio
import logging

from perdure.observability.metrics import Histogram

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25
WORTH_A_WARNING_SECONDS = 1.0


class LoopLag:
    """Measures the running event loop from :meth:`start` to :meth:`stop`."""

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL_SECONDS, self._tick, loop, loop.time() + INTERVAL_SECONDS)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        late = max(0.0, loop.time() - due)
        self._lag.observe(late)
        if late >= WORTH_A_WARNING_SECONDS:
            log.warning("the event loop was blocked for %.1f s: nobody was answered meanwhile", late, extra={"seconds": round(late, 3)})
        self.start()
