"""One client: its frames, its streams, and how much each side may send."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from perdure.core.call import Call
from perdure.core.clock import Clock
from perdure.core.errors import ApiError, Code
from perdure.rpc.http2 import frames
from perdure.rpc.http2.frames import ConnectionFault, ErrorCode
from perdure.rpc.http2.headers import HEADER_LIST_BYTES, TABLE_SIZE_ZERO, HeaderReader, RequestHeaders
from perdure.rpc.http2.messages import MessageReader, timeout_ns
from perdure.rpc.http2.stream import Stream
from perdure.rpc.routes import Routes

OWN_FRAME_SIZE = 256 * 1024
"""Larger than the default, so that a large message is not cut into hundreds of frames."""

CONNECTION_WINDOW = 32 * 1024 * 1024

MOST_FRAGMENTS = 128
"""Frames that the headers of one request may come in: enough for the longest headers in frames of the default size, empty ones included."""

PING_AFTER_SECONDS = 60.0
"""A client that has been silent for so long is asked whether it still exists."""
PONG_WITHIN_SECONDS = 20.0

_HTTP1 = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nThis port speaks gRPC (HTTP/2) only.\n"


class Connection(asyncio.Protocol):
    """Speaks HTTP/2 with one client. on_lost(connection): called once, when it is gone."""

    def __init__(self, routes: Routes, clock: Clock, message_limit: int, on_lost: Callable[[Connection], None]) -> None:
        self.routes = routes
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        #: Streams that wait for a window to open.
        self.blocked: dict[int, Stream] = {}
        self.window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self.is_paused = False
        self.is_draining = False
        self._clock = clock
        self._message_limit = message_limit
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._is_greeted = False
        self._is_closed = False
        self._headers = HeaderReader()
        self._prefix = b""
        self._gathering: tuple[int, int, list[bytes]] | None = None
        self._last_stream = 0
        self._stream_window = frames.DEFAULT_WINDOW
        self._received = 0
        self._unsent: list[bytes] = []
        self._heard_at = self.loop.time()
        self._pinged_at = 0.0

    # -- the transport's side -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._is_closed:  # the server stopped while this client was connecting
            self._transport.abort()
            return
        settings = {
            frames.INITIAL_WINDOW_SIZE: self._message_limit + frames.DEFAULT_WINDOW,
            frames.MAX_FRAME_SIZE: OWN_FRAME_SIZE,
            frames.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
        }
        self.write(frames.settings_frame(settings) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
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
        if self._transport is not None:
            self._transport.resume_reading()
        self._unblock()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        self._heard_at = self.loop.time()
        try:
            self._rest = self._take(data)
        except ConnectionFault as fault:
            self.write(frames.go_away(self._last_stream, fault.code, str(fault)))
            self.close()

    def write(self, data: bytes) -> None:
        """Send at the end of this turn of the event loop, with everything else that is written in it: a commit answers many calls at
        once, and handing data to the system costs more than all else about an answer."""
        if not self._unsent:
            self.loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(b"".join(unsent))

    def close(self) -> None:
        """Give up on calls that are still running, send what is written, then hang up."""
        for stream in list(self.streams.values()):
            stream.abandon()
        self._is_closed = True
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- frames ---------------------------------------------------------------------------------------
    def _take(self, data: bytes) -> bytes:
        """Handle every whole frame; returns what is left over."""
        position = 0
        if not self._is_greeted:
            if len(data) < len(frames.PREFACE) and frames.PREFACE.startswith(data):
                return data
            if not data.startswith(frames.PREFACE):
                self.write(_HTTP1)
                self.close()
                return b""
            self._is_greeted = True
            position = len(frames.PREFACE)
        end = len(data)
        while end - position >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = struct.unpack_from(">BHBBI", data, position)
            length = high << 16 | low
            if length > OWN_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than the settings allow")
            start = position + frames.HEADER_BYTES
            if end - start < length:
                break
            position = start + length
            self._frame(kind, flags, stream_id & 0x7FFFFFFF, data[start:position])
        return data[position:] if position else data

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._gathering is not None and (kind != frames.CONTINUATION or stream_id != self._gathering[0]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers were interrupted by another frame")
        if kind == frames.DATA:
            self._data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._header_fragment(flags, stream_id, frames.without_padding(payload, flags))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == frames.PING:
            self._ping(flags, payload)
        elif kind == frames.RST_STREAM:
            if stream_id > self._last_stream or not stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a reset of a stream that does not exist")
            stream = self.streams.get(stream_id)
            if stream is not None:
                stream.abandon()
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        # PRIORITY, GOAWAY and frames of extensions need no answer.

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, self._received))
            self._received = 0
        if flags & frames.PADDED:
            payload = frames.without_padding(payload, flags & frames.PADDED)
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self._last_stream or not stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data of a stream that was never opened")
            return  # of a call that has ended meanwhile
        if stream.remote_ended:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "data behind the end of a request")
        is_last = bool(flags & frames.END_STREAM)
        stream.received += size
        if not is_last and stream.received >= self._message_limit // 2:
            self.write(frames.window_update(stream_id, stream.received))
            stream.received = 0
        stream.feed(payload, is_last=is_last)

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
            self._unblock()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.window += increment
        if stream.window > frames.LARGEST_WINDOW:
            self.write(frames.reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR))
            stream.abandon()
        elif self.blocked.pop(stream_id, None) is not None:
            stream.pump()

    def _unblock(self) -> None:
        waiting, self.blocked = self.blocked, {}
        for stream in waiting.values():
            stream.pump()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if flags & frames.ACK:
            return
        for name, value in frames.parse_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
                change, self._stream_window = value - self._stream_window, value
                for stream in self.streams.values():
                    stream.window += change
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame size out of bounds")
                self.frame_size = value
            elif name == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE_SIZE:
                self._prefix = TABLE_SIZE_ZERO
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._unblock()

    def _ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a PING frame of odd size")
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def header_prefix(self) -> bytes:
        """What the next header block has to begin with: the client may have shrunk the table."""
        prefix, self._prefix = self._prefix, b""
        return prefix

    # -- calls ----------------------------------------------------------------------------------------
    def _request(self, flags: int, stream_id: int, block: bytes) -> None:
        headers = self._headers.read(block)
        is_last = bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is not None:  # trailers
            if not is_last or stream.remote_ended:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers in the middle of a request")
            stream.feed(b"", is_last=True)
            return
        if stream_id <= self._last_stream:
            return  # of a call that has ended meanwhile
        if not stream_id % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream with an even number")
        if self.is_draining:
            # The client may safely repeat the call elsewhere.
            self.write(frames.reset(stream_id, ErrorCode.REFUSED_STREAM))
            return
        self._last_stream = stream_id
        self._open(stream_id, headers, is_last=is_last)

    def _open(self, stream_id: int, headers: RequestHeaders, *, is_last: bool) -> None:
        now = self._clock.now()
        timeout = timeout_ns(headers["grpc-timeout"]) if "grpc-timeout" in headers else None
        route = self.routes.find(headers.get(":path", ""))
        call = Call(route.name, headers, None if timeout is None else now + timeout)
        reader = MessageReader(headers.get("grpc-encoding", "identity"), self._message_limit)
        stream = self.streams[stream_id] = Stream(self, stream_id, route, call, reader, self._stream_window)
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            stream.refuse(ApiError(Code.UNKNOWN, "this is no gRPC call: it must be a POST with the content type application/grpc"))
        elif is_last:
            stream.feed(b"", is_last=True)

    def forget(self, stream: Stream) -> None:
        """A stream has ended."""
        self.streams.pop(stream.id, None)
        self.blocked.pop(stream.id, None)

    # -- housekeeping -----------------------------------------------------------------------------------
    def drain(self) -> None:
        """Take no new calls."""
        self.is_draining = True
        self.write(frames.go_away(self._last_stream, ErrorCode.NO_ERROR))

    def sweep(self) -> None:
        """End calls whose deadline has passed, and find out whether a silent client still exists. Called about once a second."""
        now = self._clock.now()
        for stream in [s for s in self.streams.values() if s.call.deadline is not None and s.call.deadline < now]:
            stream.time_out()
        elapsed = self.loop.time()
        if self._pinged_at > self._heard_at:
            if elapsed - self._pinged_at > PONG_WITHIN_SECONDS:
                self.abort()
        elif elapsed - self._heard_at > PING_AFTER_SECONDS:
            self._pinged_at = elapsed
            self.write(frames.frame(frames.PING, 0, 0, b"perdure?"))
