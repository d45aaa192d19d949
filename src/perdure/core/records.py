"""Records: what a journal is made of.

A record is either a public ``HistoryEvent`` or a private :class:`Note`. One step appends its records as one journal row: the events as the
bytes of a
``History`` (so that pages can be answered by joining rows), the notes as a list of (number of events before the note, note).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Union

import msgspec
from temporalio.api.history.v1 import History, HistoryEvent

from perdure.core.codec import Codec


class Note(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A private record. Subclasses name what happened; fields may be added at the end with a default, never removed or reordered."""


Record = HistoryEvent | Note

EVENTS_TAG = b"\x0a"
"""The tag of an event in a ``History``."""


class NoteCodec:
    """Encodes and decodes the notes of one kind of execution.

    types: every note type of the kind; each has a tag of its own.
    """

    def __init__(self, types: Sequence[type[Note]]) -> None:
        union: Any = Union[tuple(types)]  # noqa: UP007  built at run time
        self._codec: Codec[list[tuple[int, Note]]] = Codec(list[tuple[int, union]])

    def encode(self, notes: Sequence[tuple[int, Note]]) -> bytes:
        return self._codec.encode(list(notes)) if notes else b""

    def decode(self, data: bytes) -> list[tuple[int, Note]]:
        return self._codec.decode(data) if data else []

    def replay(self, events: bytes, notes: bytes) -> Iterator[Record]:
        """The records of one journal row, in the order in which they were applied."""
        history = History.FromString(events).events if events else ()
        position = 0
        for before, note in self.decode(notes):
            while position < before:
                yield history[position]
                position += 1
            yield note
        yield from history[position:]


def event_bytes(event: HistoryEvent) -> bytes:
    """One event as a field of ``History``. Joined, they are the bytes of a ``History``."""
    return field_bytes(EVENTS_TAG, event.SerializeToString())


def field_bytes(tag: bytes, data: bytes) -> bytes:
    """A field that is a message: tag, length, bytes. Behind the bytes of another message they belong to that one."""
    size = len(data)
    if size < 0x80:
        return b"%b%c%b" % (tag, size, data)
    if size < 0x4000:
        return b"%b%c%c%b" % (tag, size & 0x7F | 0x80, size >> 7, data)
    prefix = bytearray(tag)
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + data
