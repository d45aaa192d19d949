"""How long a server may answer for a partition without asking the database."""

from __future__ import annotations

from perdure.core.clock import Clock
from perdure.core.errors import unavailable

MARGIN = 10
"""A tenth of a lease is left unused: clocks that run at (almost) the same speed are all that is asked for."""

EXPIRED = "This server has lost touch with its database, and another one may have taken over. Try again."


class Tenure:
    """The time of one lease as its owner sees it: from before the database was asked for it, by a clock that nobody sets.

    The database counts from later on, so whoever takes over does so after this has ended. lease_time: nanoseconds. is_shared: whether
    there can be another server at all. asked_at: when (by ``clock.elapsed()``) the lease was asked for.
    """

    def __init__(self, clock: Clock, lease_time: int, asked_at: int, *, is_shared: bool) -> None:
        self._clock = clock
        self._time = lease_time - lease_time // MARGIN
        self._is_shared = is_shared
        self._asked_at = asked_at

    @property
    def age(self) -> int:
        """Nanoseconds since the lease was asked for the last time it was given."""
        return self._clock.elapsed() - self._asked_at

    def renewed(self, asked_at: int) -> None:
        """The database has extended the lease."""
        self._asked_at = asked_at

    @property
    def is_over(self) -> bool:
        """Whether another server may own the partition by now. The lease may still be renewed."""
        return self._is_shared and self.age >= self._time

    def check(self) -> None:
        """Raises ApiError UNAVAILABLE when it is over: what is in memory may not be the truth any more."""
        if self.is_over:
            raise unavailable(EXPIRED)
