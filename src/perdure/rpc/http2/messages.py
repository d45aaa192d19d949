"""What gRPC puts into HTTP/2: messages with a length before them, compression, timeouts, and the status at the end."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import quote

from perdure.core.errors import ApiError, Code
from perdure.rpc.grpc_status import to_wire

PREFIX_BYTES = 5

_UNITS = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}
_PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


def timeout_ns(text: str) -> int | None:
    """Nanoseconds of a ``grpc-timeout`` header; None when it is not one (it is then ignored, as a missing one)."""
    unit = _UNITS.get(text[-1:])
    number = text[:-1]
    return int(number) * unit if unit is not None and number.isdecimal() and len(number) <= 8 else None


def message_prefix(data: bytes) -> bytes:
    """The five bytes before a message that is not compressed."""
    return b"\x00" + len(data).to_bytes(4, "big")


def too_large(size: int, limit: int) -> ApiError:
    return ApiError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


class MessageReader:
    """Takes a call's data apart into messages.

    encoding: the call's ``grpc-encoding``. limit: bytes of a message, packed or not.
    """

    __slots__ = ("_data", "_encoding", "_limit")

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        # Grows in place: a large message in small frames costs no more than in large ones.
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def __len__(self) -> int:
        """Bytes that wait for the rest of their message, or to be taken."""
        return len(self._data)

    def has_more_than_one(self) -> bool:
        """Whether there is something behind the first message. Raises ApiError for a first one that is too large."""
        data = self._data
        if len(data) < PREFIX_BYTES:
            return False
        size = int.from_bytes(data[1:PREFIX_BYTES], "big")
        if size > self._limit:
            raise too_large(size, self._limit)
        return len(data) > PREFIX_BYTES + size

    def next(self) -> bytes | None:
        """The next whole message; None when more data is needed. Raises ApiError for what is too large or cannot be unpacked."""
        data = self._data
        if len(data) < PREFIX_BYTES:
            return None
        size = int.from_bytes(data[1:PREFIX_BYTES], "big")
        if size > self._limit:
            raise too_large(size, self._limit)
        end = PREFIX_BYTES + size
        if len(data) < end:
            return None
        is_packed = data[0]
        message = bytes(memoryview(data)[PREFIX_BYTES:end])
        del data[:end]
        return unpack(message, self._encoding, self._limit) if is_packed else message


def unpack(message: bytes, encoding: str, limit: int) -> bytes:
    """A compressed message as it was before. Raises ApiError for what is too large, broken, or packed in another way than we know."""
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise ApiError(Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"')
    unpacker = zlib.decompressobj(bits)
    try:
        unpacked = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise _broken(str(error)) from error
    if len(unpacked) > limit:
        raise too_large(len(unpacked), limit)
    if not unpacker.eof:
        raise _broken("unexpected EOF")
    if unpacker.unused_data:
        raise _broken("data behind its end")
    return unpacked


def _broken(reason: str) -> ApiError:
    return ApiError(Code.INTERNAL, f"grpc: failed to decompress the received message: {reason}")


def status_fields(error: ApiError) -> list[tuple[str, str]]:
    """The trailers that tell a caller about a refusal."""
    code, message, details = to_wire(error)
    fields = [("grpc-status", str(int(code)))]
    if message:
        fields.append(("grpc-message", quote(message, safe=_PRINTABLE)))
    if details:
        fields.append(("grpc-status-details-bin", base64.b64encode(details).decode().rstrip("=")))
    return fields
