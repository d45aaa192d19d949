"""Just enough HTTP/2 to do what no well-behaved gRPC client does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from types import TracebackType

DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK = END_STREAM = 0x1
END_HEADERS = 0x4


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class RawHttp2:
    """One connection, frame by frame."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self._port = port
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> RawHttp2:
        connected = socket.create_connection(("127.0.0.1", self._port))
        if self._receive_buffer is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._reader, self._writer = await asyncio.open_connection(sock=connected, limit=self._receive_buffer or 2**16)
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0, 0, b"")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()

    def abort(self) -> None:
        """Cut the connection without a word (a TCP reset)."""
        self._writer.transport.abort()

    def write_without_waiting(self, data: bytes) -> None:
        """Send any bytes; what the server does not take yet waits here."""
        self._writer.write(data)

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._writer.write(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    async def receive(self) -> Frame:
        head = await self._reader.readexactly(9)
        size = int.from_bytes(head[:3], "big")
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), await self._reader.readexactly(size))

    async def receive_bytes(self, count: int) -> bytes:
        """So many bytes, of whatever frames."""
        return await self._reader.readexactly(count)

    async def until_closed(self) -> None:
        """Read whatever comes until the server hangs up."""
        with contextlib.suppress(ConnectionResetError):
            while await self._reader.read(65_536):
                pass

    async def receive_kind(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds."""
        while True:
            frame = await self.receive()
            if frame.kind in kinds:
                return frame

    def begin(self, stream: int, path: str, **headers: str) -> None:
        """Send the headers of a request."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"te": "trailers", "content-type": "application/grpc", **headers}
        block = b"".join(_literal(name.replace("_", "-"), value) for name, value in fields.items())
        self.send(HEADERS, END_HEADERS, stream, block)

    def call(self, stream: int, path: str, body: bytes, **headers: str) -> None:
        """Send a whole request. body: as in the DATA frame, that is with gRPC's own five bytes before each message."""
        self.begin(stream, path, **headers)
        self.send(DATA, END_STREAM, stream, body)

    async def round_trip(self) -> None:
        """Wait until the server has taken all that was sent."""
        self.send(PING, 0, 0, b"12345678")
        while not (await self.receive_kind(PING)).flags & ACK:
            pass


def framed(message: bytes) -> bytes:
    """A message with gRPC's five bytes before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _literal(name: str, value: str) -> bytes:
    """A header field of HPACK: literal, not indexed, not Huffman-coded; under 127 bytes each."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
