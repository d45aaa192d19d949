"""Pages of history: whole write batches, joined as bytes."""

from __future__ import annotations

import msgspec

from perdure.core.codec import Codec
from perdure.core.errors import invalid_argument
from perdure.engine.engine import Engine
from perdure.engine.live import HistoryBatch
from perdure.features.workflow.services import WorkflowExecution

PAGE_BATCHES = 256
PAGE_BYTES = 3 * 1024 * 1024
"""A page stays below gRPC's message limit (4 MiB), whatever its events hold."""


class PageToken(msgspec.Struct, frozen=True, array_like=True):
    """Where the next page begins. run_id: of the run that was meant, also when it is no longer the current one. last_event_id: where this read ends."""

    run_id: str
    next_event_id: int
    last_event_id: int
    is_waiting: bool = False


_CODEC: Codec[PageToken] = Codec(PageToken)


def encode_page_token(token: PageToken) -> bytes:
    return _CODEC.encode(token)


def decode_page_token(data: bytes) -> PageToken:
    """Raises ApiError INVALID_ARGUMENT for garbage."""
    try:
        return _CODEC.decode(data)
    except (ValueError, msgspec.MsgspecError):
        raise invalid_argument("Invalid NextPageToken.") from None


def join(batches: list[HistoryBatch]) -> bytes:
    """The bytes of a ``History`` with all events of the batches."""
    return b"".join(batch.events for batch in batches)


class HistoryPages:
    """Reads histories page by page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, execution: WorkflowExecution, first: int, last: int, limit: int = PAGE_BATCHES) -> tuple[bytes, int]:
        """The events first..last as bytes of a ``History``, at most a page, and the first event id of the next page (0: that was all)."""
        batches = await self._engine.history(execution, first, last, limit)
        page: list[HistoryBatch] = []
        size = 0
        for batch in batches:
            if page and size + len(batch.events) > PAGE_BYTES:
                break
            page.append(batch)
            size += len(batch.events)
        after = page[-1].last_event_id + 1 if page else 0
        return join(page), after if page and after <= last else 0

    async def first(self, execution: WorkflowExecution, first: int, last: int) -> tuple[bytes, bytes]:
        """The first page of a worker's task, and the token for the rest."""
        if first > last:
            return b"", b""
        history, after = await self.read(execution, first, last)
        return history, encode_page_token(PageToken(execution.key.run_id, after, last)) if after else b""
