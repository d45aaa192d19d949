"""Refuses names that no database would keep: PostgreSQL has no U+0000 in text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def text_check(request_type: type[Message]) -> TextCheck:
    """The check of one type of request. It is slow: call it only for requests whose bytes hold a zero, which few do."""
    paths = tuple(_paths(request_type.DESCRIPTOR, frozenset()))

    def check(request: Message) -> None:
        for path in paths:
            if any(NUL in value for value in _values(request, path)):
                raise invalid_argument(f"{'.'.join(path)} holds the character U+0000, which no id, name or query can have.")

    return check


def _paths(descriptor: Any, outer: frozenset[str]) -> Iterable[tuple[str, ...]]:
    """Where a message of this type, and those in it, have ids, names and queries."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None:
            if inner.full_name not in _LEFT_ALONE | outer and not inner.GetOptions().map_entry:
                for path in _paths(inner, outer | {descriptor.full_name, inner.full_name}):
                    yield (field.name, *path)
        elif field.type == FieldDescriptor.TYPE_STRING and (field.name in _NAMES or field.name.endswith(_SUFFIXES)):
            yield (field.name,)


def _values(message: Any, path: tuple[str, ...]) -> Iterable[str]:
    """The strings that a path leads to."""
    name, rest = path[0], path[1:]
    field: FieldDescriptor = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if not rest:
        return value if field.is_repeated else (value,)
    if field.is_repeated:
        return (text for item in value for text in _values(item, rest))
    return _values(value, rest) if message.HasField(name) else ()
