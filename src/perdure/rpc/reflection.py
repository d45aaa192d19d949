"""Server reflection, which lets generic gRPC tools list and call the services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from perdure.core.call import Call
from perdure.rpc.routes import Route, Streaming

SERVICE = "grpc.reflection.v1alpha.ServerReflection"
METHOD = f"/{SERVICE}/ServerReflectionInfo"


class ReflectionService:
    """Describes the given services, health and itself."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(services)
        self._servicer: Any = None

    def routes(self) -> dict[str, Route]:
        """Path → what answers it."""
        return {METHOD: Streaming("ServerReflectionInfo", self._describe)}

    async def _describe(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        # Imported when somebody asks; few do, and never at the start.
        from grpc_health.v1 import health_pb2 as health
        from grpc_reflection.v1alpha import reflection_pb2 as messages
        from grpc_reflection.v1alpha.reflection import ReflectionServicer

        if self._servicer is None:
            self._servicer = ReflectionServicer((*self._services, health.DESCRIPTOR.services_by_name["Health"].full_name, SERVICE))
        async for data in requests:
            request: Any = messages.ServerReflectionRequest.FromString(data)
            for response in self._servicer.ServerReflectionInfo(iter([request]), None):
                yield response.SerializeToString()
