"""A store that fails where a test says so."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History

from perdure.store.protocol import Commit, CommitUnknown, Store, StoreError


class Fault(enum.Enum):
    """What happens to the chosen commit."""

    FAILS = "it does not happen"
    UNKNOWN_HAPPENED = "it happens, but the answer gets lost"
    UNKNOWN_LOST = "it does not happen, and there is no answer"
    DOWN = "it and all after it do not happen"


class Saboteur:
    """A store whose n-th commit from now fails, or all that it refuses; everything else goes through to the store behind it."""

    def __init__(self, base: Store) -> None:
        self._base = base
        self._left = -1
        self._fault = Fault.FAILS
        self.struck = asyncio.Event()
        self.refuses: Callable[[Commit], bool] = lambda commit: False
        self.refusals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def arm(self, commits: int, fault: Fault) -> None:
        self._left, self._fault = commits, fault
        self.struck.clear()

    async def commit(self, commit: Commit) -> None:
        if self.refuses(commit):
            self.refusals += 1
            raise StoreError("the commit was refused")
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._fault == Fault.DOWN):
            self.struck.set()
            if self._fault == Fault.UNKNOWN_HAPPENED:
                await self._base.commit(commit)
            if self._fault in (Fault.UNKNOWN_HAPPENED, Fault.UNKNOWN_LOST):
                raise CommitUnknown("the answer got lost")
            raise StoreError("the commit failed")
        await self._base.commit(commit)


def recorded(commit: Commit) -> list[EventType.ValueType]:
    return [event.event_type for row in commit.journal for event in History.FromString(row.events).events]
