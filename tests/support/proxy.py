"""A TCP proxy that breaks connections at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import Enum


class Fault(Enum):
    """What happens to the next bytes a client sends."""

    NONE = "they pass"
    LOSE_REQUEST = "they are thrown away and the client is cut off"
    LOSE_ANSWER = "they pass, and the client is cut off when the answer comes"
    DELAY_REQUEST = "the client is cut off; they are delivered when release() is called"


class Proxy:
    """Forwards 127.0.0.1:port to another port; `fault` is what happens to the next bytes a client sends, once."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.fault = Fault.NONE
        self.connections = 0
        """How many clients have connected."""
        self.requests = 0
        """How often a client has sent something."""
        self.delayed = asyncio.Event()
        """Set when a request is being held back."""
        self._target = target
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self) -> None:
        """Deliver what is held back."""
        self._released.set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(self._copy(server_reader, writer))
        self._tasks.add(answers)
        try:
            while data := await reader.read(1 << 16):
                self.requests += 1
                fault, self.fault = self.fault, Fault.NONE
                if fault is Fault.LOSE_REQUEST:
                    break
                if fault is Fault.LOSE_ANSWER:
                    answers.cancel()
                    await asyncio.wait([answers])
                    server_writer.write(data)
                    await server_reader.read(1)
                    break
                if fault is Fault.DELAY_REQUEST:
                    writer.close()
                    self.delayed.set()
                    await self._released.wait()
                server_writer.write(data)
        except ConnectionError:
            pass
        finally:
            answers.cancel()
            writer.close()
            server_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()
