"""How much a connection puts up with: things that no client needs to do often, and that cost more to answer than to send."""

from __future__ import annotations


class Tolerance:
    """A bucket that holds ``most`` and gets ``per_second`` back; clock readings in seconds, of any clock that never goes back."""

    __slots__ = ("_left", "_most", "_per_second", "_seen_at")

    def __init__(self, most: int, per_second: float, now: float) -> None:
        self._most = self._left = float(most)
        self._per_second = per_second
        self._seen_at = now

    def try_once_more(self, now: float, cost: float = 1.0) -> bool:
        """Take one out, or what the thing costs; False when so much is not left."""
        self._left = min(self._most, self._left + (now - self._seen_at) * self._per_second)
        self._seen_at = now
        if self._left < cost:
            return False
        self._left -= cost
        return True
