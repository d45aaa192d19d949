"""Where ids and randomness come from; seeded in tests and in the simulator."""

from __future__ import annotations

import os
import random


class IdSource:
    """Random ids.

    seed: give one to get the same ids on every run; without it they come from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.random = random.Random(seed if seed is not None else int.from_bytes(os.urandom(16), "big"))

    def uuid(self) -> str:
        """A random (version 4) UUID in its usual text form."""
        # The version and variant bits are those of a random UUID; building one through the uuid module costs ten times as much.
        return _text(self.random.getrandbits(128) & ~(0xF000 << 64 | 0xC000 << 48) | (0x4000 << 64 | 0x8000 << 48))

    def run_id(self, now: int) -> str:
        """The id of a run that begins now (nanoseconds since the epoch): a UUID of version 7, which sorts by time, as the official server
        gives them."""
        milliseconds = (now // 1_000_000) & 0xFFFF_FFFF_FFFF
        return _text(milliseconds << 80 | 0x7 << 76 | self.random.getrandbits(12) << 64 | 0x2 << 62 | self.random.getrandbits(62))


def _text(bits: int) -> str:
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
