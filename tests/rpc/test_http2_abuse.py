"""What a client may not do to the server: send more than one message, flood it, fill its memory, or never read."""

from __future__ import annotations

import asyncio
import gzip
import struct
import time
import zlib

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice import v1 as ws

from perdure.core.errors import ApiError, Code
from perdure.rpc.http2 import connection as limits
from perdure.rpc.http2 import frames
from perdure.rpc.http2.headers import HeaderReader, RequestHeaders, header_block
from perdure.rpc.http2.messages import MessageReader
from perdure.rpc.http2.stream import Stream
from perdure.rpc.http2.tolerance import Tolerance
from tests.rpc.conftest import Door
from tests.rpc.http2 import Frame, RawHttp2, framed
from tests.support.waiting import until

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
DESCRIBE, SIGNAL, POLL = f"{SERVICE}/DescribeWorkflowExecution", f"{SERVICE}/SignalWorkflowExecution", f"{SERVICE}/PollWorkflowTaskQueue"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"

REQUEST = framed(ws.SignalWorkflowExecutionRequest(namespace="default", signal_name="s").SerializeToString())
POLL_REQUEST = framed(ws.PollWorkflowTaskQueueRequest(namespace="default").SerializeToString())
CANCEL = struct.pack(">I", frames.ErrorCode.CANCEL)


def call_headers(path: str, **more: str) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    return header_block([*fields, ("content-type", "application/grpc"), *more.items()])


def code_of(goodbye: Frame) -> int:
    return int.from_bytes(goodbye.payload[4:8], "big")


async def status(client: RawHttp2, stream: int) -> bytes:
    """The trailers of a call."""
    while True:
        frame = await client.receive_kind(frames.HEADERS, frames.GOAWAY)
        assert frame.kind == frames.HEADERS, frame
        if frame.stream == stream and frame.flags & frames.END_STREAM:
            return frame.payload


async def assert_alive(client: RawHttp2, stream: int) -> None:
    """The connection answers another call."""
    client.call(stream, SIGNAL, REQUEST)
    assert b"grpc-status\x010" in await status(client, stream)


@pytest.mark.parametrize("is_last", [True, False], ids=["at once", "without an end"])
async def test_second_message_of_a_unary_call_is_refused(door: Door, is_last: bool) -> None:
    """The handler never runs, and nothing piles up behind the first message."""
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(SIGNAL))
        client.send(frames.DATA, frames.END_STREAM if is_last else 0, 1, REQUEST + REQUEST)
        trailers = await status(client, 1)
        assert b"grpc-status\x0212" in trailers
        assert b"had more" in trailers
        if not is_last:
            stop = await client.receive_kind(frames.RST_STREAM)
            assert (stop.stream, stop.payload) == (1, struct.pack(">I", frames.ErrorCode.NO_ERROR))
        await assert_alive(client, 3)
    assert len(door.seen) == 1


async def test_second_message_in_its_own_frame_is_refused(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(SIGNAL))
        client.send(frames.DATA, 0, 1, REQUEST)
        client.send(frames.DATA, frames.END_STREAM, 1, REQUEST)
        assert b"had more" in await status(client, 1)
    assert door.seen == []


async def test_beginning_of_a_second_message_is_refused(door: Door) -> None:
    """Also when a frame of its own says that this was all."""
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(SIGNAL))
        client.send(frames.DATA, 0, 1, REQUEST)
        client.send(frames.DATA, 0, 1, REQUEST[:-1])
        client.send(frames.DATA, frames.END_STREAM, 1, b"")
        assert b"had more" in await status(client, 1)
    assert door.seen == []


async def test_half_a_message_is_refused(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.call(1, SIGNAL, REQUEST[:-1])
        assert b"grpc-status\x0213" in await status(client, 1)


@pytest.mark.parametrize("path", [POLL, HEALTH_WATCH])
async def test_calls_opened_and_reset_in_a_loop_end_the_connection(door: Door, path: str) -> None:
    """Rapid reset: no handler is left behind, and the client is told why."""
    async with RawHttp2(door.port) as client:
        block = call_headers(path)
        for number in range(limits.MOST_ODDITIES + 200):
            client.send(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block)
            client.send(frames.DATA, 0, 2 * number + 1, POLL_REQUEST)
            client.send(frames.RST_STREAM, 0, 2 * number + 1, CANCEL)
        goodbye = await client.receive_kind(frames.GOAWAY)
        assert code_of(goodbye) == frames.ErrorCode.ENHANCE_YOUR_CALM
        await client.until_closed()
    waiting = [task for task in asyncio.all_tasks() if "_answer" in repr(task) or "_converse" in repr(task)]
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(door.polls_cancelled) == len(door.polls)


async def test_worker_that_stops_may_take_many_polls_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long polls that waited for some time are no attack, however many end together."""
    monkeypatch.setattr(limits, "HASTY_SECONDS", 0.0)
    count = limits.MOST_ODDITIES + 100
    async with RawHttp2(door.port) as client:
        for number in range(count):
            client.call(2 * number + 1, POLL, POLL_REQUEST, grpc_timeout="50S")
        await door.wait_for_polls(count)
        for number in range(count):
            client.send(frames.RST_STREAM, 0, 2 * number + 1, CANCEL)
        await assert_alive(client, 2 * count + 1)
    assert len(door.polls_cancelled) == count


async def test_changing_settings_without_end(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        for number in range(limits.MOST_ODDITIES + 200):
            client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, number))
        assert code_of(await client.receive_kind(frames.GOAWAY)) == frames.ErrorCode.ENHANCE_YOUR_CALM


async def test_data_frames_without_data(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(SIGNAL))
        for _ in range(limits.MOST_EMPTY_FRAMES + 1):
            client.send(frames.DATA, 0, 1, b"")
        assert code_of(await client.receive_kind(frames.GOAWAY)) == frames.ErrorCode.ENHANCE_YOUR_CALM


async def test_calls_at_a_time_are_limited_and_the_limit_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_STREAMS", 3)
    async with RawHttp2(door.port) as client:
        told = dict(struct.iter_unpack(">HI", (await client.receive_kind(frames.SETTINGS)).payload))
        assert told[frames.MAX_CONCURRENT_STREAMS] == 3
        for stream in (1, 3, 5, 7):
            client.call(stream, POLL, POLL_REQUEST, grpc_timeout="50S")
        refused = await client.receive_kind(frames.RST_STREAM)
        assert (refused.stream, refused.payload) == (7, struct.pack(">I", frames.ErrorCode.REFUSED_STREAM))
        client.send(frames.RST_STREAM, 0, 1, CANCEL)
        await assert_alive(client, 9)


async def test_calls_refused_while_the_server_stops_leave_the_others_alone(door: Door) -> None:
    """A client may have sent new calls, with their data, before it learned that the server stops."""
    never = asyncio.Event()
    door.draining.wait = never.wait  # type: ignore[method-assign]
    async with RawHttp2(door.port) as client:
        client.call(1, POLL, POLL_REQUEST, grpc_timeout="50S")
        await door.wait_for_polls(1)
        stopping = asyncio.create_task(door.server.stop(10))
        goodbye = await client.receive_kind(frames.GOAWAY)
        assert (goodbye.payload[:4], code_of(goodbye)) == (struct.pack(">I", 1), frames.ErrorCode.NO_ERROR)
        client.call(3, SIGNAL, REQUEST)
        assert (await client.receive_kind(frames.RST_STREAM, frames.GOAWAY)).stream == 3
        never.set()
        assert b"grpc-status\x010" in await status(client, 1)
        await stopping


async def test_more_data_than_the_window_lets_in(door: Door) -> None:
    """A conversation that nobody listens to: Watch reads one request and no more."""
    chunk = framed(b"\x0a\x80\x80\x03" + b"x" * 0xC000)
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(HEALTH_WATCH))
        for _ in range(200):
            client.send(frames.DATA, 0, 1, chunk)
        trailers = await status(client, 1)
        assert b"grpc-status\x018" in trailers
        await assert_alive(client, 3)


async def test_unfinished_requests_are_held_up_to_a_limit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_HELD_BYTES", 300_000)
    begun = b"\0" + struct.pack(">I", 1_000_000) + bytes(100_000)
    async with RawHttp2(door.port) as client:
        for stream in (1, 3, 5):
            client.send(frames.HEADERS, frames.END_HEADERS, stream, call_headers(SIGNAL))
            client.send(frames.DATA, 0, stream, begun)
        trailers = await status(client, 5)
        assert b"grpc-status\x018" in trailers
        client.send(frames.RST_STREAM, 0, 1, CANCEL)
        for stream in (7, 9):
            client.send(frames.HEADERS, frames.END_HEADERS, stream, call_headers(SIGNAL))
            client.send(frames.DATA, 0, stream, begun)
        assert b"grpc-status\x018" in await status(client, 9)
        await assert_alive(client, 11)


async def test_client_that_never_opens_its_window_gets_no_more_answers(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_UNSENT_BYTES", 250_000)
    request = ws.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="w" * 100_000))
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 0))
        for stream in (1, 3, 5):
            client.call(stream, DESCRIBE, framed(request.SerializeToString()))
            await client.receive_kind(frames.HEADERS)
        client.call(7, DESCRIBE, framed(request.SerializeToString()))
        refused = await client.receive_kind(frames.RST_STREAM, frames.HEADERS)
        assert (refused.stream, refused.payload) == (7, struct.pack(">I", frames.ErrorCode.REFUSED_STREAM))
        client.send(frames.RST_STREAM, 0, 1, CANCEL)
        client.call(9, DESCRIBE, framed(request.SerializeToString()))
        assert (await client.receive_kind(frames.RST_STREAM, frames.HEADERS)).kind == frames.HEADERS


@pytest.fixture
def pumped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The streams that were looked at to see whether they can send, one after the other."""
    pump, streams = Stream.pump, list[int]()

    def noting(stream: Stream) -> None:
        streams.append(stream.id)
        pump(stream)

    monkeypatch.setattr(Stream, "pump", noting)
    return streams


DESCRIBE_LARGE = framed(
    ws.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="w" * 20_000)).SerializeToString()
)
COUNT, UPDATES = 100, 500


async def test_opening_the_connection_costs_nothing_for_streams_that_are_closed_themselves(door: Door, pumped: list[int]) -> None:
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 0))
        for number in range(COUNT):
            client.call(2 * number + 1, DESCRIBE, DESCRIBE_LARGE)
            await client.receive_kind(frames.HEADERS)
        pumped.clear()
        for _ in range(UPDATES):
            client.send(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 8_192))
        await client.round_trip()
        assert pumped == []
        # One stream opens and is heard, in spite of many words at once.
        for _ in range(UPDATES):
            client.send(frames.WINDOW_UPDATE, 0, 7, struct.pack(">I", 100))
        assert b"grpc-status\x010" in await status(client, 7)
        assert set(pumped) == {7}
        assert len(pumped) < UPDATES / 10
        # All of them open, and all are heard.
        client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 65_535))
        ended = [(await client.receive_kind(frames.HEADERS)).stream for _ in range(COUNT - 1)]
        assert sorted(ended) == [stream for stream in range(1, 2 * COUNT, 2) if stream != 7]


async def test_a_connection_that_opens_by_a_little_is_not_tried_by_every_stream(door: Door, pumped: list[int]) -> None:
    async with RawHttp2(door.port) as client:
        for number in range(COUNT):
            client.call(2 * number + 1, DESCRIBE, DESCRIBE_LARGE)
            await client.receive_kind(frames.HEADERS)
        pumped.clear()
        for _ in range(UPDATES):
            client.send(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))
            await client.round_trip()
        assert len(pumped) < 2 * UPDATES
        client.send(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 10_000_000))
        last = 2 * COUNT - 1
        assert b"grpc-status\x010" in await status(client, last)


async def test_changing_the_windows_of_many_waiting_streams_uses_up_tolerance(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAMS_PER_ODDITY", 1)
    async with RawHttp2(door.port) as client:
        client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 0))
        for number in range(COUNT):
            client.call(2 * number + 1, DESCRIBE, DESCRIBE_LARGE)
            await client.receive_kind(frames.HEADERS)
        changes = 0
        while True:
            client.send(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, changes % 2))
            # Until the change is acknowledged, so that the streams are looked at each time.
            answer = await client.receive_kind(frames.SETTINGS, frames.GOAWAY)
            if answer.kind == frames.GOAWAY:
                break
            changes += 1
        assert code_of(answer) == frames.ErrorCode.ENHANCE_YOUR_CALM
        assert changes < 2 * limits.MOST_ODDITIES // COUNT


async def test_pings_of_a_client_that_does_not_read_pile_up_nowhere(door: Door) -> None:
    """The server stops reading before its own buffer grows; and goes on when the client reads."""
    count = 400_000
    async with RawHttp2(door.port, receive_buffer=65_536) as client:
        ping = b"\0\0\x08\x06\0\0\0\0\0ping me!"
        await client.receive_kind(frames.SETTINGS)
        client.write_without_waiting(ping * count)
        (connection,) = door.server._connections  # pyright: ignore[reportPrivateUsage]

        async def is_paused() -> bool:
            return connection.is_paused

        await until(is_paused)
        transport = connection._transport  # pyright: ignore[reportPrivateUsage]
        assert transport is not None
        assert transport.get_write_buffer_size() < 2 * 1024 * 1024
        assert len(await client.receive_bytes(17 * count)) == 17 * count


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "payload", "code"),
    [
        (frames.RST_STREAM, 0, 1, bytes(3), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.RST_STREAM, 0, 3, bytes(4), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.WINDOW_UPDATE, 0, 3, struct.pack(">I", 1), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.WINDOW_UPDATE, 0, 1, bytes(4), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.PING, 0, 1, bytes(8), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.SETTINGS, frames.ACK, 0, bytes(6), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.SETTINGS, 0, 0, struct.pack(">HI", frames.ENABLE_PUSH, 2), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.DATA, frames.PADDED, 1, b"", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.DATA, frames.PADDED, 1, b"\x04abc", frames.ErrorCode.PROTOCOL_ERROR),
        (frames.HEADERS, frames.END_HEADERS | frames.PRIORITIZED, 3, bytes(4), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.CONTINUATION, frames.END_HEADERS, 1, b"", frames.ErrorCode.PROTOCOL_ERROR),
    ],
)
async def test_fault_on_an_open_stream(door: Door, kind: int, flags: int, stream: int, payload: bytes, code: frames.ErrorCode) -> None:
    async with RawHttp2(door.port) as client:
        client.send(frames.HEADERS, frames.END_HEADERS, 1, call_headers(SIGNAL))
        client.send(kind, flags, stream, payload)
        assert code_of(await client.receive_kind(frames.GOAWAY)) == code


async def test_window_of_a_stream_that_overflows_ends_the_stream_alone(door: Door) -> None:
    async with RawHttp2(door.port) as client:
        client.call(1, POLL, POLL_REQUEST, grpc_timeout="50S")
        await door.wait_for_polls(1)
        client.send(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 2**31 - 1))
        assert (await client.receive_kind(frames.RST_STREAM)).payload == struct.pack(">I", frames.ErrorCode.FLOW_CONTROL_ERROR)
        await door.poll_cancelled.wait()
        await assert_alive(client, 3)


def packed(data: bytes) -> bytes:
    return b"\x01" + struct.pack(">I", len(data)) + data


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_truncated_compression_is_refused(encoding: str) -> None:
    whole = gzip.compress(b"message" * 100) if encoding == "gzip" else zlib.compress(b"message" * 100)
    for data, is_good in (
        (whole, True),
        (whole[:-1], False),
        (whole[:-9], False),
        (whole[:12], False),
        (b"", False),
        (whole + b"x", False),
    ):
        reader = MessageReader(encoding, 1_000)
        reader.feed(packed(data))
        if is_good:
            assert reader.next() == b"message" * 100
            continue
        with pytest.raises(ApiError, match="failed to decompress the received message") as raised:
            reader.next()
        assert raised.value.code == Code.INTERNAL


def test_message_of_just_the_allowed_size_is_unpacked() -> None:
    for size, is_good in ((1_000, True), (1_001, False)):
        reader = MessageReader("gzip", 1_000)
        reader.feed(packed(gzip.compress(bytes(size))))
        if is_good:
            assert reader.next() == bytes(size)
        else:
            with pytest.raises(ApiError, match="larger than max"):
                reader.next()


def _seconds_to_read(size: int, frame_size: int) -> float:
    """CPU time for a message that arrives in small frames."""
    data, reader = framed(bytes(size)), MessageReader("identity", size)
    before = time.process_time()
    for start in range(0, len(data), frame_size):
        reader.feed(data[start : start + frame_size])
        reader.has_more_than_one()
    assert reader.next() == bytes(size)
    return time.process_time() - before


def test_small_frames_cost_no_more_for_being_many() -> None:
    """Four times the message is not sixteen times the work (with room for noise)."""
    small, large = (min(_seconds_to_read(size, 64) for _ in range(3)) for size in (1_000_000, 4_000_000))
    assert large < 9 * small


def test_short_blocks_that_stand_for_long_headers_are_not_remembered() -> None:
    meanings: list[RequestHeaders] = []

    def interpret(headers: RequestHeaders) -> RequestHeaders:
        meanings.append(headers)
        return headers

    reader = HeaderReader(interpret)
    reader.read(b"\x40\x01n\x7f\xa1\x1e" + b"v" * 4_000)  # goes into the table
    block = b"\xbe" * 60
    first = reader.read(block)
    assert len(first["n"]) > 200_000
    assert reader.read(block) is not first
    short = b"\xbe"
    assert reader.read(short) is reader.read(short)


def test_tolerance_comes_back_with_time() -> None:
    tolerance = Tolerance(3, 2.0, now=10.0)
    assert [tolerance.try_once_more(10.0) for _ in range(4)] == [True, True, True, False]
    assert [tolerance.try_once_more(11.0) for _ in range(3)] == [True, True, False]
    assert [tolerance.try_once_more(1_000.0) for _ in range(4)] == [True, True, True, False]
