"""A small HTTP/1.1 server for probes and metrics: GET and HEAD of a few fixed paths, nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from perdure.observability.metrics import CONTENT_TYPE, Registry

log = logging.getLogger(__name__)

HEAD_SIZE_LIMIT = 16 * 1024
"""Bytes of a request's first line and headers."""

IDLE_SECONDS = 60.0
"""A connection on which nothing is asked for so long is closed."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What goes back: status, type and body."""

    status: HTTPStatus
    content_type: str
    body: bytes


Route = Callable[[], HttpAnswer]


def json_answer(status: HTTPStatus, value: object) -> HttpAnswer:
    return HttpAnswer(status, "application/json", json.dumps(value).encode() + b"\n")


def observability_routes(registry: Registry, is_ready: Callable[[], bool]) -> dict[str, Route]:
    """``/metrics``, ``/healthz`` (the process answers) and ``/readyz`` (the API takes calls)."""

    def metrics() -> HttpAnswer:
        return HttpAnswer(HTTPStatus.OK, CONTENT_TYPE, registry.render().encode())

    def healthz() -> HttpAnswer:
        return json_answer(HTTPStatus.OK, {"status": "OK"})

    def readyz() -> HttpAnswer:
        if is_ready():
            return json_answer(HTTPStatus.OK, {"status": "SERVING"})
        return json_answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "NOT_SERVING"})

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}


class HttpServer:
    """Serves routes: path → what to answer. A route that raises is answered 500 and logged."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> int:
        """Answer on a listening socket, which is ours from now on; returns its port."""
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=HEAD_SIZE_LIMIT)
        return listener.getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection. May be called again."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has gone, or we are stopping
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether another may follow."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _send(writer, _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), is_last=True)
            return False
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        try:
            method, target, version = first.split(" ")
            headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        except ValueError:
            await _send(writer, _refusal(HTTPStatus.BAD_REQUEST), is_last=True)
            return False
        # A request with a body is answered without reading it, so nothing sensible can follow.
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        is_last = has_body or version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        await _send(writer, self._answer(method, target.partition("?")[0]), is_last=is_last, without_body=method == "HEAD")
        return not is_last

    def _answer(self, method: str, path: str) -> HttpAnswer:
        route = self._routes.get(path)
        if route is None:
            return _refusal(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return route()
        except Exception:
            log.exception("bug in the answer to %s", path)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)


def _refusal(status: HTTPStatus) -> HttpAnswer:
    return HttpAnswer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


async def _send(writer: asyncio.StreamWriter, answer: HttpAnswer, *, is_last: bool, without_body: bool = False) -> None:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *(["Connection: close"] if is_last else []),
        "\r\n",
    ]
    head = "\r\n".join(lines)
    writer.write(head.encode("latin-1") + (b"" if without_body else answer.body))
    await writer.drain()
