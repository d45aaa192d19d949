"""Where ids and randomness come from; seeded in tests and in the simulator."""

from __future__ import annotations

import os
import random
import uuid


class IdSource:
    """Random ids.

    seed: give one to get the same ids on every run; without it they come from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.random = random.Random(seed if seed is not None else int.from_bytes(os.urandom(16), "big"))
        self._seeded = seed is not None

    def uuid(self) -> str:
        """A random (version 4) UUID in its usual text form."""
        if self._seeded:
            return str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        return str(uuid.uuid4())
