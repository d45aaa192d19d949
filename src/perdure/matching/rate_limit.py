"""A rate limit on what a task queue hands out."""

from __future__ import annotations

from perdure.core.clock import SECOND

SLOWEST = 1e-9
"""Anything below, and what is no number, lets nothing through, as on the official server; it is one task in 30 years."""


class RateLimit:
    """A bucket of tokens, filled at a rate and holding one second's worth (at least one).

    per_second: as a worker gave it; 0 once it lets nothing through.
    """

    def __init__(self, per_second: float, now: int) -> None:
        per_second = per_second if per_second > SLOWEST else 0.0
        self.per_second = per_second
        self._tokens = max(per_second, 1.0)
        self._filled_at = now

    def change(self, per_second: float, now: int) -> None:
        """Set another rate; what was saved up is kept, as far as the new bucket holds it."""
        per_second = per_second if per_second > SLOWEST else 0.0
        if per_second != self.per_second:
            self._fill(now)
            self.per_second = per_second
            self._tokens = min(self._tokens, max(per_second, 1.0))

    def take(self, now: int) -> bool:
        """Take a token; False when there is none."""
        self._fill(now)
        if self._tokens < 1.0 or not self.per_second:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self, now: int) -> None:
        """What a token was taken for has not come to pass."""
        self._fill(now)
        self._tokens = min(max(self.per_second, 1.0), self._tokens + 1.0)

    def next_at(self, now: int) -> int | None:
        """When there will be a token (nanoseconds since the epoch); None for never."""
        if not self.per_second:
            return None
        self._fill(now)
        return now + int(max(0.0, 1.0 - self._tokens) / self.per_second * SECOND) + 1

    def _fill(self, now: int) -> None:
        if now > self._filled_at:
            self._tokens = min(max(self.per_second, 1.0), self._tokens + (now - self._filled_at) / SECOND * self.per_second)
        self._filled_at = now  # also when the clock was set back
