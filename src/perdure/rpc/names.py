"""Refuses names that no database would keep: PostgreSQL has no U+0000 in text."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from perdure.core.errors import invalid_argument

NUL = "\0"

_NAMES = frozenset({"namespace", "name", "normal_name", "id", "task_queue", "query", "visibility_query"})
_SUFFIXES = ("_id", "_name", "_task_queue")

# What workers and users put into payloads, failures and histories is stored as bytes, whatever it is. A worker's commands are checked one
# by one: refusing the request as a whole would leave the workflow stuck without a reason.
_LEFT_ALONE = frozenset(
    {
        "temporal.api.command.v1.Command",
        "temporal.api.common.v1.Header",
        "temporal.api.common.v1.Payload",
        "temporal.api.failure.v1.Failure",
        "temporal.api.history.v1.History",
        "temporal.api.history.v1.HistoryEvent",
        "temporal.api.protocol.v1.Message",
    }
)

TextCheck = Callable[[Any], None]
"""Raises ApiError INVALID_ARGUMENT for a request with U+0000 in an id, a name or a query."""

_Find = Callable[[Any], "tuple[str, ...] | None"]
"""The path to the first text with U+0000 in a message, None when there is none."""


def text_check(request_type: type[Message]) -> TextCheck:
    """The check of one type of request; made once, because it looks up beforehand where such requests have texts."""
    find = _find_in(request_type.DESCRIPTOR, frozenset())

    def check(request: Message) -> None:
        path = find(request) if find is not None else None
        if path is not None:
            raise invalid_argument(f"{'.'.join(path)} holds the character U+0000, which no id, name or query can have.")

    return check


def _find_in(descriptor: Any, outer: frozenset[str]) -> _Find | None:
    """Looks into messages of this type and those in them; None when they have no ids, names or queries."""
    names: list[str] = []
    lists: list[str] = []
    inner: list[tuple[str, bool, _Find]] = []
    for field in descriptor.fields:
        message = field.message_type
        if message is not None:
            if message.full_name not in _LEFT_ALONE | outer and not message.GetOptions().map_entry:
                find_inside = _find_in(message, outer | {descriptor.full_name, message.full_name})
                if find_inside is not None:
                    inner.append((field.name, field.is_repeated, find_inside))
        elif field.type == FieldDescriptor.TYPE_STRING and (field.name in _NAMES or field.name.endswith(_SUFFIXES)):
            (lists if field.is_repeated else names).append(field.name)
    if not names and not lists and not inner:
        return None
    # Of two names at least, an attrgetter gives a tuple.
    values: Callable[[Any], tuple[str, ...]] = attrgetter(*names) if len(names) > 1 else lambda m: tuple(getattr(m, name) for name in names)

    def find(message: Any) -> tuple[str, ...] | None:
        if NUL in "".join(values(message)):
            return (next(name for name in names if NUL in getattr(message, name)),)
        for name in lists:
            if any(NUL in value for value in getattr(message, name)):
                return (name,)
        for name, is_repeated, find_inside in inner:
            if not is_repeated and not message.HasField(name):
                continue
            value = getattr(message, name)
            for item in value if is_repeated else (value,):
                path = find_inside(item)
                if path is not None:
                    return (name, *path)
        return None

    return find
