"""The API over gRPC, on grpc.aio."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from perdure.core.call import Call, Method
from perdure.core.clock import SECOND, Clock
from perdure.core.errors import ApiError, Code
from perdure.core.limits import Limits
from perdure.rpc.dispatch import Dispatcher
from perdure.rpc.grpc_status import to_wire
from perdure.rpc.health import HealthService
from perdure.rpc.reflection import ReflectionService

log = logging.getLogger(__name__)

METADATA_SIZE_LIMIT = 1024 * 1024
"""Bytes of all headers of one request. gRPC's default of 16 KiB would refuse the longer tokens of some identity providers."""

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", METADATA_SIZE_LIMIT),
    ("grpc.absolute_max_metadata_size", METADATA_SIZE_LIMIT),
    # Two servers on one port would share its connections and each answer about half of the workflows.
    ("grpc.so_reuseport", 0),
    # Clients ping while they are idle, at intervals of their own choice, and must not be thrown out for it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    # Our own pings find the long polls of clients that vanished without closing their connection.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]

Context = grpc.aio.ServicerContext[bytes, bytes]
Drain = Callable[[], Awaitable[None]]


class ListenError(Exception):
    """The server cannot listen on the address it was given; the message says which, why, and what to do."""


class GrpcServer:
    """Serves the methods of a dispatcher, health and reflection, on one address.

    on_drain: awaited when the server stops, to end long polls with empty answers so that nobody has to wait for them.
    credentials: TLS; None serves plain text.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: Clock,
        limits: Limits,
        *,
        on_drain: Drain | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        methods = list(dispatcher.methods)
        services = sorted({method.service for method in methods})
        self.health = HealthService(services)
        self._dispatcher = dispatcher
        self._clock = clock
        self._limits = limits
        self._on_drain = on_drain
        self._credentials = credentials
        self._reflection = ReflectionService(services)
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on host and port (0: a free one) and answer calls; returns the port. Handlers must be registered by now.

        Raises :class:`ListenError`.
        """
        door = _Door(self._dispatcher, self._clock)
        handlers = [door, self.health, self._reflection, _Unknown(door.services)]
        # gRPC holds a request against its limit before and after it unpacks it.
        options = [*OPTIONS, ("grpc.max_receive_message_length", self._limits.grpc_message_bytes)]
        server = grpc.aio.server(handlers=handlers, options=options)
        check_free(host, port)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is not None:
                bound = server.add_secure_port(address, self._credentials)
            else:
                bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: {error}") from error
        await server.start()
        self._server = server
        self.health.set_serving(True)
        return bound

    async def stop(self, grace: float) -> None:
        """Take no more calls, end the long polls, give the other calls ``grace`` seconds to end, and close. May be called again."""
        server, self._server = self._server, None
        if server is None:
            return
        self.health.set_serving(False)
        stopping = asyncio.create_task(server.stop(grace))
        try:
            # One turn of the loop, so that the server refuses new calls before the old ones are told to end: a client polls again at once.
            await asyncio.sleep(0)
            if self._on_drain is not None:
                await self._on_drain()
            self.health.close()
        finally:
            await stopping


def check_free(host: str, port: int) -> None:
    """Raise :class:`ListenError` with the reason when nothing can listen on the address; gRPC itself does not tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ListenError(f"cannot listen on {host!r}: this host name has no address ({error.strerror}).") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = f"port {port} is taken by another process on {host}. Stop that process, or choose another port."
            elif error.errno == errno.EACCES:
                reason = f"this user may not listen on port {port}. Choose a port above 1023."
            elif error.errno == errno.EADDRNOTAVAIL:
                reason = f"{host} is not an address of this machine. Use 127.0.0.1, 0.0.0.0 or one of its own addresses."
            else:
                reason = error.strerror or str(error)
            raise ListenError(f"cannot listen on {host}:{port}: {reason}") from error


class _Door(grpc.GenericRpcHandler):
    """Finds the handler of a path."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method.path: grpc.unary_unary_rpc_method_handler(_behaviour(method, dispatcher, clock))  # type: ignore[arg-type]
            for method in dispatcher.methods
        }
        self.services = frozenset(method.service for method in dispatcher.methods)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)


def _behaviour(method: Method, dispatcher: Dispatcher, clock: Clock) -> Callable[[bytes, Context], Awaitable[bytes]]:
    parse: Callable[[bytes], Message] = method.request_type.FromString
    handler = dispatcher.handler(method)
    name = method.name

    async def behaviour(data: bytes, context: Context) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        remaining = cast("float | None", context.time_remaining())
        call = Call(
            name,
            dict(context.invocation_metadata()),  # type: ignore[arg-type]
            None if remaining is None else clock.now() + int(remaining * SECOND),
            lambda: not (task.cancelling() or task.done()),
        )
        try:
            response: Any = await handler(parse(data), call)
            return response if type(response) is bytes else response.SerializeToString()
        except ApiError as error:
            told = error
        except DecodeError:
            told = _UNPARSABLE
        except Exception as error:
            told = dispatcher.bug(name, error)
        await _abort(context, told)
        raise AssertionError("abort returned")

    return behaviour


async def _abort(context: Context, error: ApiError) -> None:
    code, message, trailers = to_wire(error)
    await context.abort(code, message, trailers)


# gRPC itself defines this code for a request that does not parse; see docs/decisions.
_UNPARSABLE = ApiError(Code.INTERNAL, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data")


class _Unknown(grpc.GenericRpcHandler):
    """Answers paths that no other handler knows, in the words of the official server's gRPC library."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        path = handler_call_details.method
        service, slash, method = path.removeprefix("/").rpartition("/")
        if not slash:
            message = f'malformed method name: "{path}"'
        elif service in self._services:
            message = f"unknown method {method} for service {service}"
        else:
            message = f"unknown service {service}"

        async def refuse(requests: object, context: Context) -> None:
            await _abort(context, ApiError(Code.UNIMPLEMENTED, message))

        # As a stream, nothing of the request is read first.
        return grpc.stream_stream_rpc_method_handler(refuse)  # type: ignore[arg-type]
