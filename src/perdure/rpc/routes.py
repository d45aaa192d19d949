"""Which code answers which gRPC path, free of any transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from perdure.core.call import Call, Method
from perdure.core.errors import ApiError, Code
from perdure.rpc.dispatch import Dispatcher
from perdure.rpc.names import TextCheck, text_check

Answer = Callable[[bytes, Call], Awaitable[bytes]]
"""(request, call) → response. Raises ApiError and nothing else."""

Conversation = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]
"""(requests, call) → responses."""


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one response. name: the RPC's short name."""

    name: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Streaming:
    """Any number of requests and responses."""

    name: str
    converse: Conversation


Route = Unary | Streaming

# gRPC itself defines this code for a request that does not parse; see docs/decisions.
_UNPARSABLE = ApiError(Code.INTERNAL, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data")


_ZERO = b"\0"


class Routes:
    """The API's methods, and what else is served on the same port.

    more: path → route, of services that are no part of the API (health, reflection).
    """

    def __init__(self, dispatcher: Dispatcher, more: dict[str, Route]) -> None:
        self._dispatcher = dispatcher
        self._routes: dict[str, Route] = {method.path: Unary(method.name, self._answer(method)) for method in dispatcher.methods}
        self._routes.update(more)
        self._services = frozenset(path[1:].rpartition("/")[0] for path in self._routes)

    def find(self, path: str) -> Route:
        """What answers a path; an unknown one is refused in the words of the official server's gRPC library. Never fails."""
        return self._routes.get(path) or self._unknown(path)

    def bug(self, name: str, error: Exception) -> ApiError:
        """What a caller is told about an error that is our own fault."""
        return self._dispatcher.bug(name, error)

    def _answer(self, method: Method) -> Answer:
        parse: Callable[[bytes], Message] = method.request_type.FromString
        handler = self._dispatcher.handler(method)
        check_text: TextCheck | None = None

        async def answer(data: bytes, call: Call) -> bytes:
            nonlocal check_text
            try:
                request = parse(data)
            except DecodeError:
                raise _UNPARSABLE from None
            if _ZERO in data:  # most requests without U+0000 have none: numbers that are 0 are not sent
                check_text = check_text or text_check(method.request_type)
                check_text(request)
            response: Any = await handler(request, call)
            return response if type(response) is bytes else response.SerializeToString()

        return answer

    def _unknown(self, path: str) -> Route:
        service, slash, method = path.removeprefix("/").rpartition("/")
        if not slash:
            message = f'malformed method name: "{path}"'
        elif service in self._services:
            message = f"unknown method {method} for service {service}"
        else:
            message = f"unknown service {service}"

        async def refuse(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
            raise ApiError(Code.UNIMPLEMENTED, message)
            yield b""  # makes it a stream, of which nothing is read

        return Streaming(method, refuse)
