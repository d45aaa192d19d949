"""How private data is encoded: msgpack of typed structs, with protobuf messages inside them as their own bytes.

Used for notes, snapshots, task tokens and page tokens. Snapshots are compared byte by byte in tests (fold == live), so encoding is deterministic.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import msgspec
from google.protobuf.message import Message

T = TypeVar("T")


def _encode_message(value: object) -> bytes:
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def _decode_message(expected: type[Any], value: object) -> Any:
    if isinstance(value, bytes) and issubclass(expected, Message):
        return expected.FromString(value)
    raise NotImplementedError(f"cannot decode {expected.__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_message, order="deterministic")
_FAST_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_message)


def encode(value: object) -> bytes:
    """Encode any struct; dictionaries and sets in the order they have."""
    return _FAST_ENCODER.encode(value)


def encode_deterministic(value: object) -> bytes:
    """Encode so that equal values give equal bytes, whatever the order in which they were built."""
    return _ENCODER.encode(value)


class Codec(Generic[T]):
    """Encodes and decodes one type (a struct, or a union of tagged structs).

    ``decode`` raises :class:`msgspec.DecodeError` or :class:`msgspec.ValidationError` (a ValueError) for bytes that are not of that type.
    """

    def __init__(self, expected: Any) -> None:
        self._decoder = cast("msgspec.msgpack.Decoder[T]", msgspec.msgpack.Decoder(expected, dec_hook=_decode_message))

    def encode(self, value: T) -> bytes:
        return _FAST_ENCODER.encode(value)

    def decode(self, data: bytes) -> T:
        return self._decoder.decode(data)
