"""The driver's side of :class:`perdure.testing.bench.processes.Driver`: takes jobs from standard input, one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

SECONDS_FOR_A_JOB = 1200.0


class Load(msgspec.Struct):
    """What a job did; all in seconds.

    seconds: of the whole job. latencies: of each workflow. steps: between an activity and the next one of its workflow.
    """

    seconds: float
    latencies: list[float] = []
    steps: list[float] = []


async def answer_jobs(do: Callable[[dict[str, Any]], Awaitable[Load]]) -> None:
    """Do jobs until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        async with asyncio.timeout(SECONDS_FOR_A_JOB):
            load = await do(json.loads(line))
        print(msgspec.json.encode(load).decode(), flush=True)


async def many(count: int, concurrency: int, one: Callable[[int], Awaitable[None]]) -> Load:
    """Do something `count` times, `concurrency` of them at a time. one: gets the number, 0 and up."""
    latencies: list[float] = []
    numbers = iter(range(count))

    async def lane() -> None:
        for index in numbers:
            before = time.perf_counter()
            await one(index)
            latencies.append(time.perf_counter() - before)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(min(concurrency, count))))
    return Load(time.perf_counter() - started, latencies)


def run_driver(main: Callable[[], Awaitable[None]]) -> None:
    """The driver's whole life."""
    code = 0
    try:
        asyncio.run(_as_coroutine(main))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    # The SDK's native threads may abort the interpreter while it shuts down; all is said by now.
    os._exit(code)


async def _as_coroutine(main: Callable[[], Awaitable[None]]) -> None:
    await main()
