"""How private data is encoded: msgpack of typed structs, with protobuf messages inside them as their own bytes.

Used for notes, snapshots, task tokens and page tokens. Snapshots are compared byte by byte in tests (fold == live), so encoding is
deterministic.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast, get_args, get_type_hints

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


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_message)


def encode(value: object) -> bytes:
    """Encode any struct; dictionaries and sets in the order they have."""
    return _ENCODER.encode(value)


def encode_deterministic(value: object) -> bytes:
    """Encode so that equal values give equal bytes, whatever the order in which they were built."""
    return _ENCODER.encode(_in_order(value))


def _in_order(value: Any) -> Any:
    """Dictionaries and sets as sorted lists; msgspec itself sorts only dictionaries whose keys are texts."""
    if isinstance(value, msgspec.Struct):
        return [type(value).__name__, *(_in_order(getattr(value, name)) for name in value.__struct_fields__)]
    if isinstance(value, dict):
        return sorted(((_ENCODER.encode(key), _in_order(item)) for key, item in cast("dict[Any, Any]", value).items()), key=itemgetter(0))
    if isinstance(value, (set, frozenset)):
        return sorted(_ENCODER.encode(item) for item in cast("set[Any]", value))
    if isinstance(value, (list, tuple)):
        return [_in_order(item) for item in cast("list[Any]", value)]
    return value


def schema_version(root: type[msgspec.Struct]) -> str:
    """A fingerprint of a struct and all structs inside it: field names and types. Data written under another fingerprint cannot be read."""
    pending: list[type[msgspec.Struct]] = [root]
    seen: dict[type[msgspec.Struct], None] = {}
    while pending:
        struct = pending.pop()
        if struct in seen:
            continue
        seen[struct] = None
        for hint in get_type_hints(struct).values():
            pending.extend(inner for inner in _inner_types(hint) if isinstance(inner, type) and issubclass(inner, msgspec.Struct))
    lines = [f"{struct.__name__}: {get_type_hints(struct)}" for struct in seen]
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=6).hexdigest()


def _inner_types(hint: Any) -> list[Any]:
    found = [hint]
    for argument in get_args(hint):
        found.extend(_inner_types(argument))
    return found


class Codec(Generic[T]):
    """Encodes and decodes one type (a struct, or a union of tagged structs).

    ``decode`` raises :class:`msgspec.DecodeError` or :class:`msgspec.ValidationError` (a ValueError) for bytes that are not of that type.
    """

    def __init__(self, expected: Any) -> None:
        self._decoder = cast("msgspec.msgpack.Decoder[T]", msgspec.msgpack.Decoder(expected, dec_hook=_decode_message))

    def encode(self, value: T) -> bytes:
        return _ENCODER.encode(value)

    def decode(self, data: bytes) -> T:
        return self._decoder.decode(data)
