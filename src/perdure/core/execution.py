"""What an execution is, free of how it is kept: its address, and what a kind of execution has to say about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from temporalio.api.history.v1 import HistoryEvent

from perdure.core.jobs import Job, Part
from perdure.core.records import Note, NoteCodec

if TYPE_CHECKING:
    from perdure.core.ids import IdSource
    from perdure.core.step import Step

S = TypeVar("S")
V = TypeVar("V")

Touch = Callable[[Part], None]
"""An applier calls this with every part whose jobs it may have changed."""


class ChainKey(NamedTuple):
    """All runs under one business id, one after the other; at most one of them is current."""

    namespace_id: str
    kind: str
    business_id: str

    def slot(self, slots: int) -> int:
        """The slot of this chain: equal on every machine and for ever."""
        digest = hashlib.blake2b(f"{self.namespace_id}/{self.business_id}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % slots


class RunKey(NamedTuple):
    """One run."""

    namespace_id: str
    kind: str
    business_id: str
    run_id: str

    @property
    def chain(self) -> ChainKey:
        return ChainKey(self.namespace_id, self.kind, self.business_id)


class Visible(NamedTuple):
    """What the header row shows of a state; see :class:`perdure.store.protocol.Header` for the fields."""

    type_name: str
    task_queue: str
    status: int
    is_open: bool
    start_at: int
    execution_at: int
    close_at: int | None
    expire_at: int | None
    history_length: int
    history_size: int
    parent_business_id: str | None
    parent_run_id: str | None
    root_business_id: str
    root_run_id: str
    search_attributes: str
    memo: bytes
    details: bytes


class Kind(Protocol[S, V]):
    """A kind of execution: registered once, everything else is derived from it.

    state: the durable fold of the journal. volatile: what lives in memory only and may be lost (speculative tasks, waiting queries).
    """

    name: str
    notes: NoteCodec

    def new_state(self) -> S: ...

    def new_volatile(self) -> V: ...

    def apply_event(self, state: S, event: HistoryEvent, touch: Touch) -> None: ...

    def number_event(self, state: S, event: HistoryEvent, data: bytes, touch: Touch) -> None:
        """Take note of an event's id, after it was applied. Most events do not care. data: the serialized event."""
        ...

    def step(self, key: RunKey, state: S, volatile: V, now: int, ids: IdSource) -> Step[S, V]:
        """A step of this kind."""
        ...

    def apply_note(self, state: S, note: Note, touch: Touch) -> None: ...

    def apply_side(self, state: S, name: str, data: bytes | None, touch: Touch) -> None:
        """Take over side data that was overwritten in place (heartbeats)."""
        ...

    def clear_side(self, state: S) -> None:
        """Forget all side data: a snapshot holds that of its time, and some may have been deleted since."""
        ...

    def parts(self, state: S) -> Iterable[Part]:
        """Every part that may imply jobs."""
        ...

    def volatile_parts(self, volatile: V) -> Iterable[Part]:
        """Every part of what is in memory only that may imply jobs."""
        ...

    def visible(self, state: S) -> Visible: ...

    def shown(self, state: S) -> object:
        """Compares unequal when anything changed in :meth:`visible` that an open execution's header has to show. Cheap: asked after every
        step."""
        ...

    def next_event_id(self, state: S) -> int: ...

    def is_applied(self, state: S) -> bool:
        """While reading back: whether the next event was applied by an earlier record (and is only numbered here)."""
        ...

    def weight(self, state: S) -> int:
        """About how many bytes of memory the state takes beyond that of an empty one. Must not depend on how much there is to count."""
        ...

    def encode_state(self, state: S, *, deterministic: bool = False) -> bytes: ...

    def decode_state(self, data: bytes) -> S: ...

    #: Changes whenever the encoding of states changes in a way that old snapshots cannot be read.
    snapshot_version: str


def all_jobs(kind: Kind[S, Any], state: S) -> list[Job]:
    """Every job that a state implies, derived from nothing but the state."""
    return [job for part in kind.parts(state) for job in part.jobs(state)]


def untouched(part: Part) -> None:
    """The touch of a fold: jobs are derived from the whole state afterwards."""
