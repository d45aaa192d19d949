"""A real server on a free port, with a few handlers that show what reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as ws
from temporalio.service import ConnectConfig, ServiceClient

from perdure.core.call import OPERATOR_SERVICE, WORKFLOW_SERVICE, Call
from perdure.core.clock import SystemClock
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.features.system.rpc import SystemRpc
from perdure.observability.metrics import Registry
from perdure.observability.rpc_metrics import RpcMetrics
from perdure.rpc.checks import Checks
from perdure.rpc.dispatch import Dispatcher
from perdure.rpc.grpc_server import GrpcServer
from perdure.rpc.services import method_table

NAMESPACES = {"default": "id-of-default", "other": "id-of-other", "größe": "id-of-größe", "gone": "id-of-gone"}


class Namespaces:
    deleted = frozenset({"id-of-gone"})

    def id_of(self, name: str) -> str | None:
        return NAMESPACES.get(name)

    def name_of(self, namespace_id: str) -> str:
        return next((name for name, known in NAMESPACES.items() if known == namespace_id), namespace_id)


def token_namespace(token: bytes) -> str:
    """Test tokens are ``token:<namespace id>``."""
    kind, _, namespace_id = token.decode(errors="replace").partition(":")
    if kind != "token":
        raise ValueError("no token")
    return namespace_id


class Door:
    """A running server, the calls that its handlers saw, and what they shall do."""

    def __init__(self) -> None:
        self.seen: list[tuple[Message, Call]] = []
        self.polls: list[Call] = []
        #: Set by the next poll, which puts a new event here.
        self.poll_arrived = asyncio.Event()
        self.polls_cancelled: list[Call] = []
        self.poll_cancelled = asyncio.Event()
        self.draining = asyncio.Event()
        #: Raised by DescribeWorkflowExecution.
        self.error: Exception | None = None
        self.registry = Registry()
        self.methods = method_table()
        SystemRpc("11111111-1111-4111-8111-111111111111", "memory").register(self.methods)
        self.methods.handle("DescribeWorkflowExecution", self._describe)
        self.methods.handle("SignalWorkflowExecution", self._accept(ws.SignalWorkflowExecutionResponse))
        self.methods.handle("DescribeNamespace", self._accept(ws.DescribeNamespaceResponse))
        self.methods.handle("RespondActivityTaskCompleted", self._accept(ws.RespondActivityTaskCompletedResponse))
        self.methods.handle("PollWorkflowTaskQueue", self._poll)
        for name in ("AddSearchAttributes", "DeleteNamespace"):
            self.methods.handle(name, self._accept(self.methods.get(name, OPERATOR_SERVICE).response_type), OPERATOR_SERVICE)
        clock, limits = SystemClock(), Limits()
        checks = Checks(Namespaces(), token_namespace, clock, limits)
        dispatcher = Dispatcher(self.methods, checks, RpcMetrics(self.registry), IdSource())
        self.server = GrpcServer(dispatcher, clock, limits, on_drain=self._drain)
        self.port = 0

    async def wait_for_polls(self, count: int) -> None:
        """Wait until so many polls have arrived."""
        while len(self.polls) < count:
            await self.poll_arrived.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self, response: type[Message]) -> Callable[[Any, Call], Awaitable[Message]]:
        async def handler(request: Message, call: Call) -> Message:
            self.seen.append((request, call))
            return response()

        return handler

    async def _describe(self, request: ws.DescribeWorkflowExecutionRequest, call: Call) -> bytes:
        self.seen.append((request, call))
        if self.error is not None:
            raise self.error
        response = ws.DescribeWorkflowExecutionResponse()
        response.workflow_execution_info.execution.CopyFrom(WorkflowExecution(workflow_id=request.execution.workflow_id))
        return response.SerializeToString()

    async def _poll(self, request: ws.PollWorkflowTaskQueueRequest, call: Call) -> ws.PollWorkflowTaskQueueResponse:
        self.polls.append(call)
        self.poll_arrived.set()
        self.poll_arrived = asyncio.Event()
        try:
            await self.draining.wait()
        except asyncio.CancelledError:
            self.polls_cancelled.append(call)
            self.poll_cancelled.set()
            raise
        return ws.PollWorkflowTaskQueueResponse()

    async def _drain(self) -> None:
        self.draining.set()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    door.port = await door.server.start("127.0.0.1", 0)
    yield door
    await door.server.stop(0)


@pytest.fixture
async def channel(door: Door) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(door.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
async def sdk(door: Door) -> ServiceClient:
    """The official SDK's service client."""
    return await ServiceClient.connect(ConnectConfig(target_host=door.address))


async def raw_call(
    channel: grpc.aio.Channel,
    method: str,
    request: Message | bytes = b"",
    *,
    service: str = WORKFLOW_SERVICE,
    timeout: float | None = 10,
    headers: Sequence[tuple[str, str]] = (),
    compression: grpc.Compression | None = None,
) -> bytes:
    """Call a method by its name; the response's bytes."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    untyped: Any = channel
    multicallable = untyped.unary_unary(f"/{service}/{method}")
    return await multicallable(data, timeout=timeout, metadata=tuple(headers), compression=compression)


async def refusal(channel: grpc.aio.Channel, method: str, request: Message | bytes = b"", **options: Any) -> tuple[grpc.StatusCode, str]:
    """The status code and message with which a method refuses a request."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw_call(channel, method, request, **options)
    return raised.value.code(), raised.value.details() or ""
