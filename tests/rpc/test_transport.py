"""What the transport does with connections, sizes, encodings and its own life."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as ws
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

from perdure.core.call import WORKFLOW_SERVICE
from perdure.core.clock import SECOND, SystemClock
from perdure.core.limits import Limits
from perdure.rpc.listening import ListenError
from tests.rpc.conftest import Door, raw_call, refusal
from tests.rpc.http2 import ACK, DATA, GOAWAY, PING, RawHttp2, framed

POLL = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="q"))
SIGNAL = ws.SignalWorkflowExecutionRequest(namespace="default", signal_name="s")


async def test_official_client_connects_and_calls(sdk: ServiceClient, door: Door) -> None:
    """The SDK compresses its requests and asks GetSystemInfo when it connects."""
    info = await sdk.workflow_service.get_system_info(ws.GetSystemInfoRequest())
    assert info.server_version == "1.32.0"
    assert info.capabilities.nexus
    response = await sdk.workflow_service.describe_workflow_execution(
        ws.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="w" * 900))
    )
    assert response.workflow_execution_info.execution.workflow_id == "w" * 900
    (_, call) = door.seen[-1]
    assert call.method == "DescribeWorkflowExecution"
    assert call.namespace_id == "id-of-default"
    assert call.headers["client-name"] == "temporal-python"


async def test_compressed_requests_are_unpacked(channel: grpc.aio.Channel, door: Door) -> None:
    request = ws.SignalWorkflowExecutionRequest(namespace="default", signal_name="s" * 10_000)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression):
        await raw_call(channel, "SignalWorkflowExecution", request, compression=compression)
    assert [seen for seen, _ in door.seen] == [request] * 3


async def test_deadline_reaches_the_handler(channel: grpc.aio.Channel, door: Door) -> None:
    now = SystemClock().now()
    await raw_call(channel, "SignalWorkflowExecution", SIGNAL, timeout=30)
    await raw_call(channel, "SignalWorkflowExecution", SIGNAL, timeout=None)
    with_deadline, without = (call.deadline for _, call in door.seen)
    assert with_deadline is not None
    assert now + 29 * SECOND < with_deadline < now + 60 * SECOND
    assert without is None


async def test_message_over_the_limit(sdk: ServiceClient, channel: grpc.aio.Channel, door: Door) -> None:
    limit = Limits().grpc_message_bytes
    request = ws.SignalWorkflowExecutionRequest(namespace="default", input=Payloads(payloads=[Payload(data=b"x" * limit)]))
    code, message = await refusal(channel, "SignalWorkflowExecution", request)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message
    code, _ = await refusal(channel, "SignalWorkflowExecution", request, compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, "the limit holds for what it unpacks to"
    with pytest.raises(RPCError) as raised:
        await sdk.workflow_service.signal_workflow_execution(request)
    assert raised.value.status == RPCStatusCode.RESOURCE_EXHAUSTED
    assert door.seen == []
    request.input.payloads[0].data = b"x" * (limit - 100)
    await raw_call(channel, "SignalWorkflowExecution", request)


async def test_long_headers_are_accepted(channel: grpc.aio.Channel, door: Door) -> None:
    token = "Bearer " + "x" * 60_000
    await raw_call(channel, "SignalWorkflowExecution", SIGNAL, headers=[("authorization", token)])
    assert door.seen[0][1].headers["authorization"] == token


async def test_pings_of_an_idle_client_are_welcome(door: Door) -> None:
    async with RawHttp2(door.port) as connection:
        for number in range(50):
            connection.send(PING, 0, 0, number.to_bytes(8, "big"))
        answered = [await connection.receive_kind(PING, GOAWAY) for _ in range(50)]
        assert [(frame.kind, frame.flags) for frame in answered] == [(PING, ACK)] * 50


async def test_waiting_handler_learns_that_its_client_has_gone(channel: grpc.aio.Channel, door: Door) -> None:
    poll = asyncio.create_task(raw_call(channel, "PollWorkflowTaskQueue", POLL, timeout=60))
    await door.wait_for_polls(1)
    assert door.polls[0].is_connected()
    poll.cancel()
    await door.poll_cancelled.wait()
    assert door.polls_cancelled == door.polls
    assert not door.polls[0].is_connected()


async def test_waiting_handler_learns_that_the_connection_was_cut(door: Door) -> None:
    async with RawHttp2(door.port) as connection:
        connection.call(1, f"/{WORKFLOW_SERVICE}/PollWorkflowTaskQueue", framed(POLL.SerializeToString()), grpc_timeout="60S")
        await door.wait_for_polls(1)
        connection.abort()
        await door.poll_cancelled.wait()
    assert not door.polls[0].is_connected()


async def test_waiting_handler_learns_that_the_deadline_has_passed(channel: grpc.aio.Channel, door: Door) -> None:
    code, _ = await refusal(channel, "PollWorkflowTaskQueue", POLL, timeout=2.2)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    await door.poll_cancelled.wait()
    assert not door.polls[0].is_connected()


async def test_stop_ends_long_polls_with_empty_answers(channel: grpc.aio.Channel, door: Door) -> None:
    polls = [asyncio.create_task(raw_call(channel, "PollWorkflowTaskQueue", POLL, timeout=60)) for _ in range(3)]
    await door.wait_for_polls(3)
    await asyncio.wait_for(door.server.stop(30), 10)
    assert await asyncio.gather(*polls) == [b""] * 3
    assert door.polls_cancelled == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", door.port)
    await door.server.stop(30)


async def test_stop_cancels_what_outlives_the_grace(channel: grpc.aio.Channel, door: Door) -> None:
    poll = asyncio.create_task(raw_call(channel, "PollWorkflowTaskQueue", POLL, timeout=60))
    await door.wait_for_polls(1)
    door.draining.wait = asyncio.Event().wait  # type: ignore[method-assign]
    second = asyncio.create_task(raw_call(channel, "PollWorkflowTaskQueue", POLL, timeout=60))
    await door.wait_for_polls(2)
    await asyncio.wait_for(door.server.stop(0.1), 10)
    assert await poll == b""
    with pytest.raises(grpc.aio.AioRpcError):
        await second
    assert len(door.polls_cancelled) == 1


async def test_taken_port_is_refused_and_never_shared(door: Door) -> None:
    with pytest.raises(ListenError, match=rf"port {door.port} is taken by another process on 127\.0\.0\.1\. Stop that process"):
        await Door().server.start("127.0.0.1", door.port)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ListenError, match="is taken by another process"):
            await Door().server.start("127.0.0.1", other.getsockname()[1])


async def test_port_in_time_wait_is_taken_over() -> None:
    """SDKs find a free port by connecting to it once, and start the server on it right after."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()
    door = Door()
    assert await door.server.start("127.0.0.1", port) == port
    await door.server.stop(0)


@pytest.mark.parametrize(("host", "expected"), [("192.0.2.1", "is not an address of this machine"), ("no such host", "has no address")])
async def test_address_that_cannot_be_listened_on(host: str, expected: str) -> None:
    with pytest.raises(ListenError, match=expected):
        await Door().server.start(host, 0)


async def test_body_frames_may_be_split(door: Door) -> None:
    body = framed(SIGNAL.SerializeToString())
    async with RawHttp2(door.port) as connection:
        connection.call(1, f"/{WORKFLOW_SERVICE}/SignalWorkflowExecution", body)
        frame = await connection.receive_kind(DATA)
        assert frame.payload == framed(b"")
