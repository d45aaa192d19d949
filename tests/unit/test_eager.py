"""A coroutine that begins at once behaves like a task but for that."""

from __future__ import annotations

import asyncio

import pytest

from perdure.core.eager import Done, begin


async def test_what_need_not_wait_is_done_at_once() -> None:
    async def answer() -> int:
        return 42

    assert begin(answer()) == Done(42)


async def test_what_fails_before_it_waits_raises_at_once() -> None:
    async def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        begin(fail())


async def test_what_has_to_wait_goes_on_as_a_task() -> None:
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    second: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def add() -> int:
        seen.append("begun")
        one = await first
        async with asyncio.timeout(10):
            two = await asyncio.wait_for(second, 10)
        return one + two

    task = begin(add())
    assert isinstance(task, asyncio.Task)
    assert seen == ["begun"]
    first.set_result(1)
    asyncio.get_running_loop().call_soon(second.set_result, 2)
    assert await task == 3


async def test_its_errors_and_those_of_what_it_waits_for_arrive() -> None:
    awaited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def translate() -> None:
        try:
            await awaited
        except KeyError:
            raise ValueError("translated") from None

    task = begin(translate())
    awaited.set_exception(KeyError("no"))
    assert isinstance(task, asyncio.Task)
    with pytest.raises(ValueError, match="translated"):
        await task


async def test_it_can_be_cancelled() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cleaned: list[bool] = []

    async def wait() -> None:
        try:
            await never
        finally:
            cleaned.append(True)

    task = begin(wait())
    assert isinstance(task, asyncio.Task)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]
    assert never.cancelled()
