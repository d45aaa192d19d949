"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")


async def until(question: Callable[[], Awaitable[Answer]], *, seconds: float = 30.0) -> Answer:
    """Ask again and again until the answer is true, and give it back. Fails after so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await question()
            if answer:
                return answer
            await asyncio.sleep(0.01)
