"""Messages of any type with any content: plausible in most fields, and wrong in every way that their types allow in some."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 5, 100, 2**31 - 1, -(2**31))
LONG_INTEGERS = (*INTEGERS, 2**53, 2**63 - 1, -(2**63))
DOUBLES = (0.0, 1.0, -1.0, 2.0, 0.5, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf)
STRINGS = (
    "",
    "x",
    "a\0b",
    "ö" * 40,
    "x" * 2_000,
    "🙂",
    "/_sys/x",
    "__x",
    "default",
    "*",
    "' OR 1=1 --",
    "%s%n",
    "a.b:c",
    "2024-01-01T00:00:00Z",
)
SECONDS = (0, 1, 60, -1, 10**6, 3 * 10**9, 315_576_000_000, -315_576_000_000, 253_402_300_800, 2**62, 2**63 - 1, -(2**63))
NANOS = (0, 0, 0, 1, -1, 999_999_999, 10**9, 2**31 - 1, -(2**31))
QUERIES = (
    "",
    "WorkflowId = 'w0'",
    "StartTime > '2020-01-01T00:00:00Z' ORDER BY StartTime",
    "WorkflowType IN ('a', 'b')",
    "((",
    "x =",
    "'",
    "a = 1",
)
TYPE_URLS = ("", "x", "type.googleapis.com/temporal.api.update.v1.Acceptance", "type.googleapis.com/temporal.api.update.v1.Response",
             "type.googleapis.com/temporal.api.update.v1.Rejection", "type.googleapis.com/temporal.api.update.v1.Request")  # fmt: skip
DEEPEST = 7


class AnyMessage:
    """Fills messages. pools: field name → values that make sense there; tokens: task tokens that are (or were) good."""

    def __init__(self, seed: int, pools: dict[str, Sequence[str]]) -> None:
        self.random = random.Random(seed)
        self.pools = pools
        self.tokens: list[bytes] = []
        self._sense = 1.0

    def make(self, message_type: type[Message]) -> Message:
        """A message; some are sensible in nearly all fields, some in hardly any."""
        self._sense = self.random.choice((0.3, 0.8, 0.95, 1.0))
        message = message_type()
        self._fill(message, 0, self.random.choice((0.15, 0.4, 0.8)))
        return message

    def _fill(self, message: Message, depth: int, density: float) -> None:
        descriptor = message.DESCRIPTOR
        match descriptor.full_name:
            case "google.protobuf.Duration" | "google.protobuf.Timestamp":
                self._fill_time(message)
                return
            case "temporal.api.common.v1.Payload":
                self._fill_payload(message)
                return
            case _:
                pass
        for field in descriptor.fields:
            is_expected = field.name in self.pools and not field.message_type
            if self.random.random() < (self._sense if is_expected or field.name in _REQUIRED else density):
                self._set(message, field, depth, density)

    def _set(self, message: Message, field: Any, depth: int, density: float) -> None:
        count = self.random.choice((1, 1, 2, 4)) if field.is_repeated else 1
        inner = field.message_type
        if inner is None:
            value = [self._scalar(field) for _ in range(count)]
            if field.is_repeated:
                getattr(message, field.name).extend(value)
            else:
                setattr(message, field.name, value[0])
            return
        if depth >= DEEPEST:
            return
        for _ in range(count):
            if inner.GetOptions().map_entry:
                self._set_entry(getattr(message, field.name), inner, depth, density)
                continue
            part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
            if not field.is_repeated:
                part.SetInParent()
            self._fill(part, depth + 1, density)

    def _set_entry(self, entries: Any, entry: Any, depth: int, density: float) -> None:
        key = self._scalar(entry.fields_by_name["key"])
        value = entry.fields_by_name["value"]
        if value.message_type is None:
            entries[key] = self._scalar(value)
        else:
            self._fill(entries[key], depth + 1, density)

    def _fill_time(self, message: Any) -> None:
        is_sensible = self.random.random() < self._sense
        message.seconds = self.random.choice((0, 1, 60, 3_600)) if is_sensible else self.random.choice(SECONDS)
        message.nanos = 0 if is_sensible else self.random.choice(NANOS)

    def _fill_payload(self, message: Any) -> None:
        encodings = (b"json/plain", b"json/plain", b"binary/null", b"binary/plain", b"", b"nonsense")
        contents = (
            b'"text"',
            b"1",
            b"1e400",
            b"NaN",
            b"[" * 50,
            b"{}",
            b"null",
            b'["a", 1]',
            b"",
            b"\xff\0",
            b"true",
            b"9" * 5_000,
            b'"2024-13-01T00:00:00Z"',
        )
        message.metadata["encoding"] = self.random.choice(encodings)
        message.data = self.random.choice(contents)

    def _scalar(self, field: Any) -> Any:
        make: Callable[[Any], Any] | None = _MAKERS.get(field.type)
        if field.type == F.TYPE_STRING:
            return self._string(field.name)
        if field.type == F.TYPE_BYTES:
            return self._bytes()
        if field.type == F.TYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return self.random.choice(known) if self.random.random() < self._sense else self.random.choice((99, -1, 2**31 - 1))
        assert make is not None, field.type
        return make(self.random)

    def _string(self, name: str) -> str:
        if name in self.pools and self.random.random() < self._sense:
            return self.random.choice(self.pools[name])
        if name == "type_url":
            return self.random.choice(TYPE_URLS)
        if name.endswith("query"):
            return self.random.choice(QUERIES)
        return self.random.choice(STRINGS)

    def _bytes(self) -> bytes:
        if self.tokens and self.random.random() < self._sense:
            return self.random.choice(self.tokens)
        if self.tokens and self.random.random() < 0.5:
            token = bytearray(self.random.choice(self.tokens))
            for _ in range(self.random.randrange(1, 4)):
                token[self.random.randrange(len(token))] = self.random.randrange(256)
            return bytes(token[: self.random.randrange(len(token) + 1)])
        return self.random.choice(
            (b"", b"\0", b"garbage", b"\x93\xa1x\x01\x02", b'["a",1,2]', b"[99999999999999999999,1]", b"[1,-9999999999999999999999]")
        )


_REQUIRED = frozenset({"execution", "workflow_execution", "workflow_type", "task_queue", "activity_type", "meta", "input", "update_ref"})

_MAKERS: dict[int, Callable[[random.Random], Any]] = {
    F.TYPE_BOOL: lambda source: source.random() < 0.5,
    F.TYPE_INT32: lambda source: source.choice(INTEGERS),
    F.TYPE_SINT32: lambda source: source.choice(INTEGERS),
    F.TYPE_UINT32: lambda source: abs(source.choice(INTEGERS[:-1])),
    F.TYPE_INT64: lambda source: source.choice(LONG_INTEGERS),
    F.TYPE_SINT64: lambda source: source.choice(LONG_INTEGERS),
    F.TYPE_UINT64: lambda source: abs(source.choice(LONG_INTEGERS[:-1])),
    F.TYPE_DOUBLE: lambda source: source.choice(DOUBLES),
    F.TYPE_FLOAT: lambda source: source.choice(DOUBLES),
}
