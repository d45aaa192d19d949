"""Coroutines that begin at once, as eager tasks do from Python 3.12 on: what has nothing to wait for costs no task and no turn of the event
loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

import msgspec

R = TypeVar("R")


class Done(msgspec.Struct, Generic[R], frozen=True):
    """A coroutine's result."""

    result: R


def begin(coroutine: Coroutine[Any, Any, R]) -> Done[R] | asyncio.Task[R]:
    """Run a coroutine until it has to wait for something. Its result, or a task that does the rest; raises what it raised by then."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return Done(end.value)
    return asyncio.get_running_loop().create_task(_finish(_Rest(coroutine, awaited)))


class _Rest(Generic[R]):
    """What is left of a coroutine. awaited: what it waits for, as the event loop wants to be told."""

    def __init__(self, coroutine: Coroutine[Any, Any, R], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, R]:
        awaited = self._awaited
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:
                resume, argument = self._coroutine.throw, error
            else:
                resume, argument = self._coroutine.send, sent
            try:
                awaited = resume(argument)
            except StopIteration as end:
                return end.value


async def _finish(rest: _Rest[R]) -> R:
    return await rest
