"""HTTP/2 as RFC 9113 asks for it, where gRPC's own client would never go: windows, frames in pieces, settings, faults."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as ws

from perdure.rpc.http2 import frames
from perdure.rpc.http2.headers import HeaderReader, header_block
from perdure.rpc.http2.messages import timeout_ns
from tests.rpc.conftest import Door
from tests.rpc.http2 import RawHttp2, framed

DESCRIBE = "/temporal.api.workflowservice.v1.WorkflowService/DescribeWorkflowExecution"
SIGNAL = "/temporal.api.workflowservice.v1.WorkflowService/SignalWorkflowExecution"
POLL = "/temporal.api.workflowservice.v1.WorkflowService/PollWorkflowTaskQueue"


def describe(workflow_id: str) -> bytes:
    request = ws.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id=workflow_id))
    return framed(request.SerializeToString())


async def answer(client: RawHttp2) -> bytes:
    """The data of the next call that ends."""
    data = b""
    while True:
        frame = await client.receive_kind(frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.GOAWAY)
        assert frame.kind not in (frames.RST_STREAM, frames.GOAWAY), frame
        if frame.kind == frames.DATA:
            data += frame.payload
        elif frame.flags & frames.END_STREAM:
            return data


def settings(**values: int) -> bytes:
    return b"".join(struct.pack(">HI", getattr(frames, name.upper()), value) for name, value in values.items())


async def test_large_answer_waits_for_the_windows(door: Door) -> None:
    """Nothing is sent beyond what the client allowed, on the stream or on the connection; all of it arrives in the end."""
    name = "w" * 200_000
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, settings(initial_window_size=1_000))
        client.call(1, DESCRIBE, describe(name))
        first = await client.receive_kind(frames.DATA)
        assert len(first.payload) == 1_000
        received = first.payload
        while True:
            client.send(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 50_000))
            client.send(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 50_000))
            frame = await client.receive_kind(frames.DATA, frames.HEADERS)
            if frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM:
                break
            if frame.kind == frames.DATA:
                assert len(frame.payload) <= frames.DEFAULT_FRAME_SIZE
                received += frame.payload
    response = ws.DescribeWorkflowExecutionResponse.FromString(received[5:])
    assert response.workflow_execution_info.execution.workflow_id == name


async def test_window_that_shrinks_below_zero(door: Door) -> None:
    """Settings change the windows of open streams, even to less than nothing."""
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, settings(initial_window_size=500))
        client.call(1, DESCRIBE, describe("w" * 2_000))
        assert len((await client.receive_kind(frames.DATA)).payload) == 500
        client.send(frames.SETTINGS, 0, 0, settings(initial_window_size=0))
        client.send(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 600))
        assert len((await client.receive_kind(frames.DATA)).payload) == 100
        client.send(frames.SETTINGS, 0, 0, settings(initial_window_size=65_535))
        assert len(await answer(client)) > 1_000


async def test_headers_in_pieces_with_padding_and_priority(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", SIGNAL), (":authority", "x"), ("te", "trailers")]
        block = header_block([*fields, ("content-type", "application/grpc+proto")])
        padded = bytes([7]) + bytes(5) + block[:20] + bytes(7)
        client.send(frames.HEADERS, frames.PADDED | frames.PRIORITIZED, 1, padded)
        client.send(frames.CONTINUATION, 0, 1, block[20:40])
        client.send(frames.CONTINUATION, frames.END_HEADERS, 1, block[40:])
        body = framed(ws.SignalWorkflowExecutionRequest(namespace="default", signal_name="s").SerializeToString())
        client.send(frames.DATA, frames.PADDED, 1, bytes([3]) + body[:4] + bytes(3))
        client.send(99, 0xFF, 1, b"an extension's frame is ignored")
        client.send(frames.DATA, 0, 1, body[4:])
        client.send(frames.DATA, frames.END_STREAM, 1, b"")
        assert await answer(client) == framed(b"")
    assert door.seen[0][0].signal_name == "s"  # type: ignore[attr-defined]


async def test_trailers_end_a_request(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.call(1, SIGNAL, framed(ws.SignalWorkflowExecutionRequest(namespace="default").SerializeToString()))
        assert await answer(client) == framed(b"")
        client.send(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, header_block([("late", "trailers")]))
        client.call(3, SIGNAL, framed(ws.SignalWorkflowExecutionRequest(namespace="default").SerializeToString()))
        assert await answer(client) == framed(b"")


async def test_request_without_a_message_is_refused(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.call(1, SIGNAL, b"")
        frame = await client.receive_kind(frames.HEADERS)
        assert frame.flags & frames.END_STREAM
        assert b"grpc-status\x0212" in frame.payload, "UNIMPLEMENTED: what gRPC says of a wrong number of messages"


async def test_call_that_is_no_grpc_is_refused(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", SIGNAL), (":authority", "x"), ("content-type", "application/json")]
        client.send(frames.HEADERS, frames.END_HEADERS, 1, header_block(fields))
        assert b"this is no gRPC call" in (await client.receive_kind(frames.HEADERS)).payload


async def test_small_header_table_is_acknowledged(door: Door) -> None:
    """RFC 7541 §4.2: who is told to use a smaller table says so in its next header block."""
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, settings(header_table_size=0))
        for stream, prefix in ((1, b"\x20\x88"), (3, b"\x88")):
            client.call(stream, SIGNAL, framed(ws.SignalWorkflowExecutionRequest(namespace="default").SerializeToString()))
            assert (await client.receive_kind(frames.HEADERS)).payload.startswith(prefix)
            await client.receive_kind(frames.HEADERS)


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "payload", "code"),
    [
        (frames.DATA, 0, 0, b"", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.DATA, 0, 5, b"x", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.HEADERS, frames.END_HEADERS, 2, header_block([(":path", "/")]), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff", frames.ErrorCode.COMPRESSION_ERROR),
        (frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\xff", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.CONTINUATION, frames.END_HEADERS, 1, b"", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.SETTINGS, 0, 0, b"\x00", frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 2**31), frames.ErrorCode.FLOW_CONTROL_ERROR),
        (frames.PING, 0, 0, b"short", frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.WINDOW_UPDATE, 0, 0, bytes(4), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1), frames.ErrorCode.FLOW_CONTROL_ERROR),
        (frames.RST_STREAM, 0, 9, bytes(4), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.PUSH_PROMISE, 0, 1, b"", frames.ErrorCode.PROTOCOL_ERROR),
    ],
)
async def test_fault_ends_the_connection(door: Door, kind: int, flags: int, stream: int, payload: bytes, code: frames.ErrorCode) -> None:
    async with RawHttp2(door.port) as client:
        client.send(kind, flags, stream, payload)
        goodbye = await client.receive_kind(frames.GOAWAY)
        assert int.from_bytes(goodbye.payload[4:8], "big") == code


async def test_endless_headers_end_the_connection(door: Door) -> None:
    """Empty fragments cost the client nothing; so they must be counted."""
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, 0, 1, b"")
        for _ in range(200):
            client.send(frames.CONTINUATION, 0, 1, b"")
        goodbye = await client.receive_kind(frames.GOAWAY)
        assert int.from_bytes(goodbye.payload[4:8], "big") == frames.ErrorCode.ENHANCE_YOUR_CALM


async def test_http1_client_is_told(door: Door) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"This port speaks gRPC" in await reader.read()
    writer.close()


async def test_reset_call_is_forgotten(door: Door) -> None:
    """A poll that the client took back ends, and the connection lives on."""
    async with RawHttp2(door.port) as client:
        client.call(1, POLL, framed(ws.PollWorkflowTaskQueueRequest(namespace="default").SerializeToString()), grpc_timeout="50S")
        await door.wait_for_polls(1)
        client.send(frames.RST_STREAM, 0, 1, struct.pack(">I", frames.ErrorCode.CANCEL))
        await door.poll_cancelled.wait()
        assert not door.polls[0].is_connected()
        client.call(3, SIGNAL, framed(ws.SignalWorkflowExecutionRequest(namespace="default").SerializeToString()))
        assert await answer(client) == framed(b"")


async def test_unsent_answer_of_a_reset_call_is_dropped(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, settings(initial_window_size=10))
        client.call(1, DESCRIBE, describe("w" * 1_000))
        await client.receive_kind(frames.DATA)
        client.send(frames.RST_STREAM, 0, 1, struct.pack(">I", frames.ErrorCode.CANCEL))
        client.send(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 5_000))
        client.send(frames.PING, 0, 0, b"ask back")
        assert (await client.receive_kind(frames.PING, frames.DATA)).kind == frames.PING


@given(st.lists(st.tuples(st.text("abcdefgh-", min_size=1), st.text(st.characters(min_codepoint=32, max_codepoint=126))), max_size=20))
def test_header_block_reads_back(fields: list[tuple[str, str]]) -> None:
    expected: dict[str, str] = {}
    for name, value in fields:
        expected[name] = f"{expected[name]},{value}" if name in expected else value
    reader = HeaderReader(lambda headers: headers)
    assert reader.read(header_block(fields)) == expected
    assert reader.read(header_block(fields)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10S", 10_000_000_000), ("5m", 5_000_000), ("1H", 3_600_000_000_000), ("99999999n", 99_999_999), ("", None), ("S", None),
     ("-1S", None), ("1.5S", None), ("123456789S", None), ("10s", None)],
)  # fmt: skip
def test_timeouts(text: str, expected: int | None) -> None:
    assert timeout_ns(text) == expected
