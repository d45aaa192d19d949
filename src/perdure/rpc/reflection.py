"""Server reflection, which lets generic gRPC tools list and call the services."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

SERVICE = "grpc.reflection.v1alpha.ServerReflection"
METHOD = f"/{SERVICE}/ServerReflectionInfo"


class ReflectionService(grpc.GenericRpcHandler):
    """Describes the given services, health and itself."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(services)
        self._handler: grpc.RpcMethodHandler[Any, Any] | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != METHOD:
            return None
        if self._handler is None:
            # Imported when somebody asks; few do, and never at the start.
            from grpc_health.v1 import health_pb2 as health
            from grpc_reflection.v1alpha import reflection_pb2 as reflection
            from grpc_reflection.v1alpha._async import ReflectionServicer

            servicer: Any = ReflectionServicer((*self._services, health.DESCRIPTOR.services_by_name["Health"].full_name, SERVICE))
            self._handler = grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                reflection.ServerReflectionRequest.FromString,
                reflection.ServerReflectionResponse.SerializeToString,
            )
        return self._handler
