"""``grpc.health.v1.Health``: whether each service takes calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio

SERVICE = "grpc.health.v1.Health"


def _messages() -> Any:
    # Imported when somebody asks: the first answered call of a starting server need not wait for it.
    from grpc_health.v1 import health_pb2

    return health_pb2


class HealthService(grpc.GenericRpcHandler):
    """Answers for the given services, and for "" (the server as a whole). Not serving until it is told so."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._is_serving = False
        self._is_closed = False
        self._changed = asyncio.Event()

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

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if not path.startswith(f"/{SERVICE}/"):
            return None
        health = _messages()

        match path.rpartition("/")[2]:
            case "Check":
                return grpc.unary_unary_rpc_method_handler(
                    self._check,  # type: ignore[arg-type]
                    health.HealthCheckRequest.FromString,
                    health.HealthCheckResponse.SerializeToString,
                )
            case "List":
                return grpc.unary_unary_rpc_method_handler(
                    self._list,  # type: ignore[arg-type]
                    health.HealthListRequest.FromString,
                    health.HealthListResponse.SerializeToString,
                )
            case "Watch":
                return grpc.unary_stream_rpc_method_handler(
                    self._watch,  # type: ignore[arg-type]
                    health.HealthCheckRequest.FromString,
                    health.HealthCheckResponse.SerializeToString,
                )
            case _:
                return None

    def _status(self, service: str) -> Any:
        health = _messages()

        if service not in self._services:
            return health.HealthCheckResponse.SERVICE_UNKNOWN
        return health.HealthCheckResponse.SERVING if self._is_serving else health.HealthCheckResponse.NOT_SERVING

    async def _check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        health = _messages()

        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health.HealthCheckResponse(status=self._status(request.service))

    async def _list(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        health = _messages()

        return health.HealthListResponse(
            statuses={service: health.HealthCheckResponse(status=self._status(service)) for service in self._services}
        )

    async def _watch(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        health = _messages()

        told = None
        while not self._is_closed:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                told = status
                yield health.HealthCheckResponse(status=status)
            await changed.wait()
