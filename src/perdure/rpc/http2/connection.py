"""One client: its frames, its streams, and how much each side may send."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import msgspec

from perdure.core.clock import Clock
from perdure.core.errors import ApiError, Code
from perdure.rpc.http2 import frames
from perdure.rpc.http2.frames import ConnectionFault, ErrorCode
from perdure.rpc.http2.headers import HEADER_LIST_BYTES, TABLE_SIZE_ZERO, HeaderReader, RequestHeaders
from perdure.rpc.http2.messages import timeout_ns
from perdure.rpc.http2.stream import Conversation, Stream, UnaryCall
from perdure.rpc.http2.tolerance import Tolerance
from perdure.rpc.routes import Route, Routes, Unary

OWN_FRAME_SIZE = 256 * 1024
"""Larger than the default, so that a large message is not cut into hundreds of frames."""

CONNECTION_WINDOW = 32 * 1024 * 1024

MOST_STREAMS = 65_536
"""Calls at a time. One client may well wait for the results of ten thousands of workflows; beyond this something is wrong with it."""

MOST_HELD_BYTES = 64 * 1024 * 1024
"""Of requests that are not complete yet, on one connection."""

MOST_UNSENT_BYTES = 64 * 1024 * 1024
"""Of answers that the client's windows do not let out; beyond this it gets no new ones."""

MOST_FRAGMENTS = 128
"""Frames that the headers of one request may come in: enough for the longest headers in frames of the default size, empty ones included."""

MOST_EMPTY_FRAMES = 100
"""Of the data of one request: a frame that brings nothing is work for nothing."""

STREAMS_PER_ODDITY = 100
"""A change of the streams' windows makes the server look at every stream that waits for its own window to open; so many count as one more
oddity."""

HASTY_SECONDS = 1.0
"""A call that is taken back so soon after it was made counts against the client's tolerance: opening and resetting streams in a loop costs
the server far more than the client. Long polls that end together, when a worker stops, are older."""
MOST_ODDITIES = 1_000
ODDITIES_PER_SECOND = 33.0
"""Hasty resets and changed settings: what a library does now and then, and an attacker all the time. nghttp2 has the same two numbers."""

FLUSH_BYTES = 64 * 1024
"""What the calls of one turn of the loop answer is sent at its end, in one system call, or as soon as it is so much."""

PING_AFTER_SECONDS = 60.0
"""A client that has been silent for so long is asked whether it still exists."""
PONG_WITHIN_SECONDS = 20.0

_frame_head = struct.Struct(">BHBBI").unpack_from
_HTTP1 = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nThis port speaks gRPC (HTTP/2) only.\n"


_NO_CALL = ApiError(Code.UNKNOWN, "this is no gRPC call: it must be a POST with the content type application/grpc")


class CallHead(msgspec.Struct):
    """What a header block asks for. method: the RPC's short name. timeout: nanoseconds. refusal: what is wrong with it."""

    method: str
    route: Route
    headers: RequestHeaders
    timeout: int | None
    encoding: str
    refusal: ApiError | None


class Connection(asyncio.Protocol):
    """Speaks HTTP/2 with one client. on_lost(connection): called once, when it is gone."""

    def __init__(self, routes: Routes, clock: Clock, message_limit: int, on_lost: Callable[[Connection], None]) -> None:
        self.routes = routes
        self.loop = asyncio.get_running_loop()
        self.message_limit = message_limit
        #: What a client may send of one request before it has to wait.
        self.credit = message_limit + frames.DEFAULT_WINDOW
        self.streams: dict[int, Stream] = {}
        #: Streams with something to send that wait for their own window to open, and those that wait for the connection alone.
        self.starved: dict[int, Stream] = {}
        self.blocked: dict[int, Stream] = {}
        #: Whether what is blocked may be able to go on: looked at once, when all that has arrived has been read.
        self._may_unblock = False
        #: What the client takes: on the connection, and on each stream beside what it has granted to that one.
        self.window = frames.DEFAULT_WINDOW
        self.stream_window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self.held = 0
        self.unsent = 0
        self.heard_at = self.loop.time()
        self.is_paused = False
        self.is_draining = False
        self._clock = clock
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._rest = bytearray()
        self._wanted = 0
        self._is_greeted = False
        self._is_closed = False
        self._headers = HeaderReader(self._interpret)
        self._prefix = b""
        self._gathering: tuple[int, int, list[bytes]] | None = None
        #: The highest stream that the client has opened, and the highest that was not refused.
        self._last_stream = self._last_taken = 0
        self._received = 0
        self._tolerance = Tolerance(MOST_ODDITIES, ODDITIES_PER_SECOND, self.heard_at)
        self._pinged_at = 0.0

    # -- the transport's side -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._is_closed:  # the server stopped while this client was connecting
            self._transport.abort()
            return
        settings = {
            frames.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
            frames.INITIAL_WINDOW_SIZE: self.credit,
            frames.MAX_FRAME_SIZE: OWN_FRAME_SIZE,
            frames.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
        }
        self.write(frames.settings_frame(settings) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._outgoing.clear()
        for stream in list(self.streams.values()):
            stream.abandon()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: take no more from it either."""
        self.is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_paused = False
        self.heard_at = self.loop.time()  # it has read something
        if self._transport is not None:
            self._transport.resume_reading()
        self._unblock()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self._is_closed:
            return
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._wanted:
                return
            data = bytes(rest)
            rest.clear()
        try:
            position = self._take(data)
        except ConnectionFault as fault:
            self.write(frames.go_away(self._last_taken, fault.code, str(fault)))
            self.close()
        else:
            if position < len(data):
                rest += memoryview(data)[position:]
            if self._may_unblock:
                self._unblock()

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn of the loop, with everything else that is written in it: a commit answers many calls at once, and
        handing data to the system costs more than all else about an answer."""
        if not self._outgoing:
            self.loop.call_soon(self._flush)
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        outgoing = self._outgoing
        if outgoing and self._transport is not None:
            data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            outgoing.clear()
            self._outgoing_bytes = 0
            self._transport.write(data)

    def close(self) -> None:
        """Give up on calls that are still running, send what is written, then hang up."""
        for stream in list(self.streams.values()):
            stream.abandon()
        self._flush()
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- frames ---------------------------------------------------------------------------------------
    def _take(self, data: bytes) -> int:
        """Handle every whole frame; returns where the first one begins that is not."""
        position = 0
        if not self._is_greeted:
            if len(data) < len(frames.PREFACE) and frames.PREFACE.startswith(data):
                self._wanted = len(frames.PREFACE)
                return 0
            if not data.startswith(frames.PREFACE):
                self.write(_HTTP1)
                self.close()
                return len(data)
            self._is_greeted = True
            position = len(frames.PREFACE)
        end = len(data)
        while end - position >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = _frame_head(data, position)
            length = high << 16 | low
            if length > OWN_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than the settings allow")
            start = position + frames.HEADER_BYTES
            if end - start < length:
                self._wanted = frames.HEADER_BYTES + length
                return position
            position = start + length
            if kind == frames.DATA and self._gathering is None:
                self._data(flags, stream_id & 0x7FFFFFFF, data[start:position])  # most frames; spares them a call
            else:
                self._frame(kind, flags, stream_id & 0x7FFFFFFF, data[start:position])
        self._wanted = frames.HEADER_BYTES
        return position

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._gathering is not None and (kind != frames.CONTINUATION or stream_id != self._gathering[0]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers were interrupted by another frame")
        if kind == frames.HEADERS:
            self._header_fragment(flags, stream_id, frames.without_padding(payload, flags))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == frames.PING:
            self._ping(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._reset(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        # PRIORITY, GOAWAY and frames of extensions need no answer.

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if size:
            self._received += size
            if self._received >= CONNECTION_WINDOW // 2:
                self.write(frames.window_update(0, self._received))
                self._received = 0
        if flags & frames.PADDED:
            payload = frames.without_padding(payload, flags & frames.PADDED)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_opened(stream_id)
            return  # of a call that has ended meanwhile
        if stream.remote_ended:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "data behind the end of a request")
        is_last = flags & frames.END_STREAM != 0
        if payload:
            stream.credit -= len(payload)  # padding is nothing that anybody would have to keep
            if stream.credit < 0:
                self._give_up(stream, ErrorCode.FLOW_CONTROL_ERROR)
                return
        if size > len(payload) and not is_last:
            self.write(frames.window_update(stream_id, size - len(payload)))
        if not payload and not is_last:
            stream.empty_frames += 1
            if stream.empty_frames > MOST_EMPTY_FRAMES:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "data frames without data")
            return
        stream.feed(payload, is_last=is_last)

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a RST_STREAM frame of odd size")
        self._check_opened(stream_id)
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.abandon()
            if self.heard_at - stream.opened_at < HASTY_SECONDS:
                self._count_oddity()

    def _give_up(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream whose client breaks the protocol on it."""
        self._count_oddity()
        self.write(frames.reset(stream.id, code))
        stream.abandon()

    def _count_oddity(self, cost: float = 1.0) -> None:
        if not self._tolerance.try_once_more(self.heard_at, cost):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many calls taken back, or settings changed, in too short a time")

    def _check_opened(self, stream_id: int) -> None:
        if stream_id > self._last_stream or not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that was never opened")

    def _header_fragment(self, flags: int, stream_id: int, fragment: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers without a stream")
        if flags & frames.END_HEADERS:
            self._request(flags, stream_id, fragment)
        else:
            self._gathering = (stream_id, flags, [fragment])

    def _continuation(self, flags: int, fragment: bytes) -> None:
        if self._gathering is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        stream_id, first_flags, fragments = self._gathering
        fragments.append(fragment)
        if len(fragments) > MOST_FRAGMENTS or sum(map(len, fragments)) > HEADER_LIST_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the headers of one request are too long")
        if flags & frames.END_HEADERS:
            self._gathering = None
            self._request(first_flags, stream_id, b"".join(fragments))

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE frame of odd size")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
        if not stream_id:
            self.window += increment
            if self.window > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
            self._may_unblock = True
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_opened(stream_id)
            return
        stream.granted += increment
        if stream.granted + self.stream_window > frames.LARGEST_WINDOW:
            self._give_up(stream, ErrorCode.FLOW_CONTROL_ERROR)
        elif self.starved.pop(stream_id, None) is not None:
            self.blocked[stream_id] = stream
            self._may_unblock = True

    def _unblock(self) -> None:
        """Let the blocked streams send as long as the connection lets anything out."""
        self._may_unblock = False
        blocked = self.blocked
        while blocked and self.window > 0 and not self.is_paused:
            blocked.pop(next(iter(blocked))).pump()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of settings that has settings")
            return
        self._count_oddity(1 + len(self.starved) / STREAMS_PER_ODDITY)
        for name, value in frames.parse_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
                self.stream_window = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame size out of bounds")
                self.frame_size = value
            elif name == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a switch that is neither on nor off")
            elif name == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE_SIZE:
                self._prefix = TABLE_SIZE_ZERO
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.blocked.update(self.starved)
        self.starved.clear()
        self._may_unblock = True

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a PING frame of odd size")
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    @property
    def has_prefix(self) -> bool:
        """Whether the next header block has to begin with something."""
        return bool(self._prefix)

    def header_prefix(self) -> bytes:
        """What the next header block has to begin with: the client may have shrunk the table."""
        prefix, self._prefix = self._prefix, b""
        return prefix

    # -- calls ----------------------------------------------------------------------------------------
    def _interpret(self, headers: RequestHeaders) -> CallHead:
        route = self.routes.find(headers.get(":path", ""))
        is_call = headers.get(":method") == "POST" and headers.get("content-type", "").startswith("application/grpc")
        timeout = timeout_ns(headers["grpc-timeout"]) if "grpc-timeout" in headers else None
        return CallHead(route.name, route, headers, timeout, headers.get("grpc-encoding", "identity"), None if is_call else _NO_CALL)

    def _request(self, flags: int, stream_id: int, block: bytes) -> None:
        head = self._headers.read(block)
        is_last = bool(flags & frames.END_STREAM)
        if stream_id <= self._last_stream:
            stream = self.streams.get(stream_id)
            if stream is None:
                return  # of a call that has ended meanwhile
            if not is_last or stream.remote_ended:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers in the middle of a request")
            stream.feed(b"", is_last=True)  # trailers
            return
        if not stream_id % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream with an even number")
        self._last_stream = stream_id
        if self.is_draining or len(self.streams) >= MOST_STREAMS or self.unsent > MOST_UNSENT_BYTES:
            # The client may safely repeat the call, here or elsewhere.
            self.write(frames.reset(stream_id, ErrorCode.REFUSED_STREAM))
            return
        self._last_taken = stream_id
        deadline = None if head.timeout is None else self._clock.now() + head.timeout
        route = head.route
        stream = (
            UnaryCall(self, stream_id, head, deadline, route)
            if isinstance(route, Unary)
            else Conversation(self, stream_id, head, deadline, route)
        )
        self.streams[stream_id] = stream
        if head.refusal is not None:
            stream.remote_ended = is_last
            stream.refuse(head.refusal)
            stream.abandon()
        elif is_last:
            stream.feed(b"", is_last=True)

    def hold(self, size: int) -> None:
        """Keep so many bytes of a request that is not complete yet. Raises ApiError when there are too many."""
        self.held += size
        if self.held > MOST_HELD_BYTES:
            raise ApiError(Code.RESOURCE_EXHAUSTED, f"grpc: too many unfinished requests: more than {MOST_HELD_BYTES} bytes of them")

    def forget(self, stream: Stream) -> None:
        """A stream has ended."""
        self.streams.pop(stream.id, None)
        self.blocked.pop(stream.id, None)
        self.starved.pop(stream.id, None)

    # -- housekeeping -----------------------------------------------------------------------------------
    def drain(self) -> None:
        """Take no new calls."""
        self.is_draining = True
        self.write(frames.go_away(self._last_taken, ErrorCode.NO_ERROR))

    def sweep(self) -> None:
        """End calls whose deadline has passed, and find out whether a silent client still exists. Called about once a second."""
        now = self._clock.now()
        for stream in [s for s in self.streams.values() if s.deadline is not None and s.deadline < now]:
            stream.time_out()
        elapsed = self.loop.time()
        if self._pinged_at > self.heard_at:
            if elapsed - self._pinged_at > PONG_WITHIN_SECONDS:
                self.abort()
        elif elapsed - self.heard_at > PING_AFTER_SECONDS:
            self._pinged_at = elapsed
            self.write(frames.frame(frames.PING, 0, 0, b"perdure?"))
