"""Listens for gRPC calls, and stops without leaving anybody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from perdure.core.clock import Clock
from perdure.core.limits import Limits
from perdure.rpc.dispatch import Dispatcher
from perdure.rpc.health import HealthService
from perdure.rpc.http2.connection import Connection
from perdure.rpc.listening import BACKLOG, listen
from perdure.rpc.reflection import ReflectionService
from perdure.rpc.routes import Routes

Drain = Callable[[], Awaitable[None]]

SWEEP_SECONDS = 1.0
CLOSE_SECONDS = 1.0
POLL_SECONDS = 0.005


class GrpcServer:
    """Serves the methods of a dispatcher, health and reflection, on one address.

    on_drain: awaited when the server stops, to end long polls with empty answers so that nobody has to wait for them.
    """

    def __init__(self, dispatcher: Dispatcher, clock: Clock, limits: Limits, *, on_drain: Drain | None = None) -> None:
        services = sorted({method.service for method in dispatcher.methods})
        self.health = HealthService(services)
        self._routes = Routes(dispatcher, {**self.health.routes(), **ReflectionService(services).routes()})
        self._clock = clock
        self._limits = limits
        self._on_drain = on_drain
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on host and port (0: a free one) and answer calls; returns the port. Handlers must be registered by now.

        Raises :class:`perdure.rpc.listening.ListenError`.
        """
        loop = asyncio.get_running_loop()
        listener = listen(host, port)
        self._server = await loop.create_server(self._connect, sock=listener, backlog=BACKLOG)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)
        self.health.set_serving(True)
        return listener.getsockname()[1]

    async def stop(self, grace: float) -> None:
        """Take no more calls, end the long polls, give the other calls ``grace`` seconds to end, and close. May be called again."""
        server, self._server = self._server, None
        if server is None:
            return
        self.health.set_serving(False)
        server.close()
        for connection in self._connections:
            connection.drain()
        if self._on_drain is not None:
            await self._on_drain()
        self.health.close()
        await self._until(lambda: not any(connection.streams for connection in self._connections), grace)
        for connection in list(self._connections):
            connection.close()
        await self._until(lambda: not self._connections, CLOSE_SECONDS)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition that ended calls and connections bring about, but not for long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition() and loop.time() < deadline:  # noqa: ASYNC110  once, at the end of the server's life
            await asyncio.sleep(POLL_SECONDS)

    def _connect(self) -> Connection:
        connection = Connection(self._routes, self._clock, self._limits.grpc_message_bytes, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _sweep(self) -> None:
        for connection in list(self._connections):
            connection.sweep()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
