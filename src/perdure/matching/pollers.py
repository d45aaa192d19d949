"""Who polls a task queue, and who did lately."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from temporalio.api.common.v1 import WorkerVersionCapabilities
from temporalio.api.deployment.v1 import WorkerDeploymentOptions

from perdure.core.clock import MINUTE, Clock
from perdure.matching.backlog import Task

POLLER_HISTORY = 5 * MINUTE
DEFAULT_RATE = 100_000.0
"""What is shown for a poller that names no rate of its own."""


class PollerDetails(msgspec.Struct, frozen=True):
    """What a poller says of itself. rate_per_second: how many tasks it wants the whole queue to hand out, None if it does not care."""

    rate_per_second: float | None = None
    capabilities: WorkerVersionCapabilities | None = None
    deployment_options: WorkerDeploymentOptions | None = None


NOTHING_SAID = PollerDetails()


def always() -> bool:
    """The connection of a caller that cannot go away."""
    return True


class Poller(msgspec.Struct, eq=False):
    """A waiting poll. is_connected: asked before a task is handed over, so that a poll whose client has gone takes none."""

    identity: str
    future: asyncio.Future[Task | None]
    is_connected: Callable[[], bool] = always
    worker_instance_key: str = ""

    def give_up(self) -> None:
        """End with nothing, unless it has ended already."""
        if not self.future.done():
            self.future.set_result(None)


class PollerInfo(msgspec.Struct):
    """Who polled lately, for people."""

    identity: str
    last_access_at: int
    details: PollerDetails = msgspec.field(default_factory=PollerDetails)


class PollerHistory:
    """The pollers of the last five minutes, by identity."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pollers: dict[str, PollerInfo] = {}
        #: When the latest poll began or ended, of whoever is not forgotten; 0 for never.
        self.last_poll_at = 0
        #: The same of all.
        self._polled_at = 0

    def note(self, identity: str, details: PollerDetails) -> None:
        """Somebody polls, or stops waiting."""
        now = self._clock.now()
        self.last_poll_at = self._polled_at = now
        # The latest goes to the end, so that those to forget are found at the beginning.
        self._pollers.pop(identity, None)
        self._pollers[identity] = PollerInfo(identity, now, details)
        oldest = next(iter(self._pollers.values()))
        if oldest.last_access_at < now - POLLER_HISTORY:
            self.recent()

    def forget(self, identity: str) -> None:
        """The worker of that identity has gone for good."""
        if self._pollers.pop(identity, None) is not None:
            self.last_poll_at = next((info.last_access_at for info in reversed(self._pollers.values())), 0)

    def recent(self) -> list[PollerInfo]:
        """Who polled within the last five minutes, the latest first."""
        horizon = self._clock.now() - POLLER_HISTORY
        for identity, info in list(self._pollers.items()):
            if info.last_access_at >= horizon:
                break
            del self._pollers[identity]
        return list(reversed(self._pollers.values()))

    def __len__(self) -> int:
        return len(self._pollers)

    def has_polled_within(self, nanoseconds: int) -> bool:
        """Whether anybody did who may come back."""
        return self.last_poll_at > 0 and self._clock.now() - self.last_poll_at < nanoseconds

    def was_polled_within(self, nanoseconds: int) -> bool:
        """Whether anybody did at all: a queue whose worker has just said goodbye most likely gets another one."""
        return self._polled_at > 0 and self._clock.now() - self._polled_at < nanoseconds
