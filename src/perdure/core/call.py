"""A call of the public API, free of any transport.

A transport (gRPC today) turns what it received into (method, request, :class:`Call`) and sends what the handler returns or raises. Handlers
are registered in one :class:`MethodTable`; what it lacks is answered UNIMPLEMENTED with the method's name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from perdure.core.clock import SECOND

WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATOR_SERVICE = "temporal.api.operatorservice.v1.OperatorService"

ANSWER_BEFORE = 1 * SECOND
"""Who waits for something that may not come is answered so much earlier than its deadline, so that the answer arrives in time."""

Request = TypeVar("Request", bound=Message)


class Call(msgspec.Struct):
    """What a handler may know about the caller.

    method: the RPC's short name. headers: lower-case metadata. deadline: nanoseconds since the epoch, or None when the caller set none.
    is_connected: False once the caller has gone; a long poll asks before it takes a task. namespace_id: the resolved namespace of the
    request, "" for RPCs without one.
    """

    method: str
    headers: Mapping[str, str] = {}
    deadline: int | None = None
    is_connected: Callable[[], bool] = lambda: True
    namespace_id: str = ""


Handler = Callable[[Any, Call], Awaitable[Any]]
"""(request message, call) → response message, or its encoded bytes when the handler has them already."""


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of the API and the handler that answers it (None: not built yet)."""

    service: str
    name: str
    request_type: type[Message]
    response_type: type[Message]
    handler: Handler | None

    @property
    def path(self) -> str:
        """The gRPC path, ``/service/Method``."""
        return f"/{self.service}/{self.name}"

    def response(self, answer: Any) -> Any:
        """A handler's answer as a message: handlers may put it together from stored bytes."""
        return self.response_type.FromString(answer) if isinstance(answer, bytes) else answer


class MethodTable:
    """Every RPC of the given services, from their descriptors, with the handlers registered so far."""

    def __init__(self, services: Mapping[ServiceDescriptor, Mapping[str, tuple[type[Message], type[Message]]]] | None = None) -> None:
        self._methods: dict[tuple[str, str], Method] = {}
        for descriptor, types in (services or {}).items():
            for method in descriptor.methods:
                request_type, response_type = types[method.name]
                self._methods[descriptor.full_name, method.name] = Method(
                    descriptor.full_name, method.name, request_type, response_type, None
                )

    def handle(self, name: str, handler: Callable[[Request, Call], Awaitable[Any]], service: str = WORKFLOW_SERVICE) -> None:
        """Register the handler of one RPC. Raises KeyError for an RPC the API does not have, ValueError for a second handler."""
        method = self._methods[service, name]
        if method.handler is not None:
            raise ValueError(f"two handlers for {method.path}")
        self._methods[service, name] = Method(service, name, method.request_type, method.response_type, handler)

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods.values())

    def get(self, name: str, service: str = WORKFLOW_SERVICE) -> Method:
        """The RPC of that name. Raises KeyError when the API has none."""
        return self._methods[service, name]
