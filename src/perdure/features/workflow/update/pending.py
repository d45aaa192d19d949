"""Updates that live in memory only: admitted, perhaps sent to a worker, not yet in history.

Losing one loses nothing that anyone was promised: whoever waits for it asks again, under the same update id.
"""

from __future__ import annotations

import enum

from temporalio.api.common.v1 import Callback
from temporalio.api.update.v1 import Outcome, Request

from perdure.core.errors import ApiError


class PendingStatus(enum.IntEnum):
    """Where a pending update stands. The table of its transitions opens ``update/lifecycle.py``."""

    ADMITTED = 1
    SENT = 2
    ACCEPTED = 3
    REJECTED = 4
    FAILED = 5


class PendingUpdate:
    """One update before its acceptance.

    request: None when history has it already (an update that was admitted again after a reset). outcome: of a rejected one. error: what a
    failed one tells its callers. callbacks: whom further callers want told of the outcome, by request id; they are recorded with the
    acceptance.

    Those who wait hold on to the object: it says how it ended after it is among the run's pending updates no more.
    """

    __slots__ = ("callbacks", "error", "outcome", "request", "size", "status", "update_id")

    def __init__(self, update_id: str, request: Request | None, status: PendingStatus = PendingStatus.ADMITTED) -> None:
        self.update_id = update_id
        self.request = request
        self.status = status
        self.outcome: Outcome | None = None
        self.error: ApiError | None = None
        self.callbacks: dict[str, list[Callback]] = {}
        self.size = len(update_id) + (request.ByteSize() if request is not None else 0)

    @property
    def is_open(self) -> bool:
        """Whether it still waits for a worker's answer."""
        return self.status in (PendingStatus.ADMITTED, PendingStatus.SENT)


PendingUpdates = dict[str, PendingUpdate]
"""The pending updates of a run by update id, in the order in which they were admitted."""
