"""Pages of history: whole write batches, joined as bytes."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from perdure.core.codec import Codec
from perdure.core.errors import invalid_argument
from perdure.engine.engine import Engine
from perdure.features.workflow.services import WorkflowExecution
from perdure.features.workflow.state import WorkflowState

PAGE_BYTES = 3 * 1024 * 1024
"""A page stays below gRPC's message limit (4 MiB), whatever its events hold."""


class PageToken(msgspec.Struct, frozen=True, array_like=True):
    """Where the next page begins.

    run_id: of the run that was meant, also when it is no longer the current one. last_event_id: where this read ends, 0 for what there is.
    """

    run_id: str
    next_event_id: int
    last_event_id: int


_CODEC: Codec[PageToken] = Codec(PageToken)


def encode_page_token(token: PageToken) -> bytes:
    return _CODEC.encode(token)


def decode_page_token(data: bytes) -> PageToken:
    """Raises ApiError INVALID_ARGUMENT for garbage."""
    try:
        return _CODEC.decode(data)
    except (ValueError, msgspec.MsgspecError):
        raise invalid_argument("Invalid NextPageToken.") from None


class Page(NamedTuple):
    """A page of history. events: bytes of a ``History``. after: the event that the next page begins with.

    is_full: it holds as many batches as were asked for, so that there may be more.
    """

    events: bytes
    after: int
    is_full: bool


class HistoryPages:
    """Reads histories page by page, without decoding what it hands on. longest: how many batches a page may have."""

    def __init__(self, engine: Engine, longest: int) -> None:
        self._engine = engine
        self._longest = longest

    async def read(self, execution: WorkflowExecution, first: int, last: int, limit: int = 0, *, trailing: bool = False) -> Page:
        """The events first..last, at most `limit` batches (0: as many as a page may have) and not much more than PAGE_BYTES of them.

        trailing: see :meth:`perdure.engine.engine.Engine.history`.
        """
        limit = limit or self._longest
        parts: list[bytes] = []
        size = count = 0
        after = first
        for batch in await self._engine.history(execution, first, last, _rows(execution.state, limit), trailing=trailing):
            events = batch.events
            if batch.first_event_id < first:
                events = b"".join(frames(events)[first - batch.first_event_id :])
            if size + len(events) > PAGE_BYTES:
                if parts:
                    break
                parts = _fitting(frames(events))
                return Page(b"".join(parts), first + len(parts), True)
            parts.append(events)
            size += len(events)
            count += 1
            after = batch.last_event_id + 1
        return Page(b"".join(parts), after, count >= limit)

    async def read_reverse(self, execution: WorkflowExecution, last: int, limit: int) -> Page:
        """The events up to `last`, latest first, as many as :meth:`read` gives; `after` is the next page's first, 0 for none."""
        parts: list[bytes] = []
        size = count = 0
        after = last
        for batch in await self._engine.history_reverse(execution, last, _rows(execution.state, limit)):
            found = frames(batch.events)[: last - batch.first_event_id + 1][::-1]
            bytes_found = sum(map(len, found))
            if size + bytes_found > PAGE_BYTES:
                if parts:
                    break
                parts = _fitting(found)
                return Page(b"".join(parts), last - len(parts), True)
            parts.extend(found)
            size += bytes_found
            count += 1
            after = batch.first_event_id - 1
        return Page(b"".join(parts), after, count >= limit)

    async def one(self, execution: WorkflowExecution, event_id: int) -> bytes:
        """One event as bytes of a ``History``."""
        batches = await self._engine.history(execution, event_id, event_id, 1)
        return frames(batches[0].events)[event_id - batches[0].first_event_id] if batches else b""

    async def first(self, execution: WorkflowExecution, first: int, last: int, until: int = 0) -> tuple[bytes, bytes]:
        """The first page of a worker's task, and the token for the rest.

        until: the last event of the task, where that is not written yet (0: it is the last one). It may be when the rest is read.
        """
        if first > last:
            return b"", b""
        page = await self.read(execution, first, last, trailing=True)
        token = encode_page_token(PageToken(execution.key.run_id, page.after, until or last)) if page.after <= last else b""
        return page.events, token


def frames(history: bytes) -> list[bytes]:
    """The events in the bytes of a ``History``, each still in its frame (field tag and length): joined they are a ``History`` again."""
    found: list[bytes] = []
    position = 0
    while position < len(history):
        start = position
        position += 1  # the tag
        size = shift = 0
        while True:
            byte = history[position]
            position += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        position += size
        found.append(history[start:position])
    return found


def _fitting(events: list[bytes]) -> list[bytes]:
    """As many events of one big batch as fit into a page, but at least one."""
    size = 0
    for count, frame in enumerate(events):
        size += len(frame)
        if count and size > PAGE_BYTES:
            return events[:count]
    return events


def _rows(state: WorkflowState, limit: int) -> int:
    """How many batches to read for a page: not many more than fit into it, as far as the size of the whole history tells."""
    bytes_per_event = state.history_size // max(1, state.next_event_id - 1)
    return max(1, min(limit, 4 * PAGE_BYTES // max(1, bytes_per_event)))
