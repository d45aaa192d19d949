"""Connections to PostgreSQL for one purpose, so that it never has to wait for another one's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from perdure.store.postgres_driver import BROKEN, Connection

CLOSE_SECONDS = 1.0


class Pool:
    """At most `size` connections, made when they are needed; the one that was used last is used first.

    connect: makes one; its errors are passed on. is_usable: tells whether a connection is as good as before when its use ended in an error.
    """

    def __init__(self, size: int, connect: Callable[[], Awaitable[Connection]], is_usable: Callable[[BaseException], bool]) -> None:
        self._connect = connect
        self._is_usable = is_usable
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection of one's own for a moment; a broken one is not used again."""
        async with self._free:
            connection = await self._take()
            self._busy.add(connection)
            try:
                yield connection
            except BaseException as error:
                if not self._is_usable(error):
                    connection.terminate()
                raise
            finally:
                self._busy.discard(connection)
                if self._closed:
                    connection.terminate()
                elif not connection.is_closed():
                    self._idle.append(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._connect()

    def put(self, connection: Connection) -> None:
        """Add one that was made elsewhere."""
        self._idle.append(connection)

    def drop_idle(self) -> None:
        """What broke one connection has probably broken the others too."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """End all of them, in use or not. A pool is not used again."""
        self._closed = True
        for connection in self._busy:
            connection.terminate()
        idle, self._idle = self._idle, []
        # All at once: a server that does not answer costs the time of one.
        await asyncio.gather(*(_close(connection) for connection in idle))


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, *BROKEN):
        connection.terminate()
