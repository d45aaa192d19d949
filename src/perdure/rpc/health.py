"""``grpc.health.v1.Health``: whether each service takes calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from perdure.core.call import Call
from perdure.core.errors import ApiError, Code
from perdure.rpc.routes import Route, Streaming, Unary

SERVICE = "grpc.health.v1.Health"


def _messages() -> Any:
    # Imported when somebody asks: the first answered call of a starting server need not wait for it.
    from grpc_health.v1 import health_pb2

    return health_pb2


class HealthService:
    """Answers for the given services, and for "" (the server as a whole). Not serving until it is told so."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._is_serving = False
        self._is_closed = False
        self._changed = asyncio.Event()

    def routes(self) -> dict[str, Route]:
        """Path → what answers it."""
        return {
            f"/{SERVICE}/Check": Unary("Check", self._check),
            f"/{SERVICE}/List": Unary("List", self._list),
            f"/{SERVICE}/Watch": Streaming("Watch", self._watch),
        }

    def set_serving(self, is_serving: bool) -> None:
        """Say whether calls are taken, to everybody who asks or watches."""
        self._is_serving = is_serving
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> Any:
        health = _messages()

        if service not in self._services:
            return health.HealthCheckResponse.SERVICE_UNKNOWN
        return health.HealthCheckResponse.SERVING if self._is_serving else health.HealthCheckResponse.NOT_SERVING

    async def _check(self, data: bytes, call: Call) -> bytes:
        health = _messages()

        service = health.HealthCheckRequest.FromString(data).service
        if service not in self._services:
            raise ApiError(Code.NOT_FOUND, "unknown service")
        return health.HealthCheckResponse(status=self._status(service)).SerializeToString()

    async def _list(self, data: bytes, call: Call) -> bytes:
        health = _messages()

        statuses = {service: health.HealthCheckResponse(status=self._status(service)) for service in self._services}
        return health.HealthListResponse(statuses=statuses).SerializeToString()

    async def _watch(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        health = _messages()

        async for data in requests:
            service = health.HealthCheckRequest.FromString(data).service
            told = None
            while True:
                changed = self._changed
                status = self._status(service)
                if status != told:
                    told = status
                    yield health.HealthCheckResponse(status=status).SerializeToString()
                if self._is_closed:
                    return
                await changed.wait()
