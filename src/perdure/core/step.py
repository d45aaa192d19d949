"""A step: one application of an intent to one execution.

Deciding means calling :meth:`Step.event` and :meth:`Step.note`; each is applied at once, so that the rest of the decision sees the new
state. Time, ids and
randomness come in through the step. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from temporalio.api.history.v1 import HistoryEvent

from perdure.core.execution import Kind, RunKey
from perdure.core.ids import IdSource
from perdure.core.jobs import Part
from perdure.core.records import EVENTS_TAG, Note, field_bytes

S = TypeVar("S")
V = TypeVar("V")


class Step(Generic[S, V]):
    """Collects the records of one journal row.

    key: the run. state, volatile: its state. now: nanoseconds since the epoch.

    The state changes only through the methods here. The volatile state is changed directly, but every change says :meth:`touch_volatile`,
    so that its jobs are found and waiting callers look again, and :meth:`on_undo`, so that a decision that turns out to be impossible
    leaves it as it was.
    """

    def __init__(self, kind: Kind[S, V], key: RunKey, state: S, volatile: V, now: int, ids: IdSource, first_event_id: int) -> None:
        self.kind = kind
        self.key = key
        self.state = state
        self.volatile = volatile
        self.now = now
        self.ids = ids
        self.first_event_id = first_event_id
        self.event_count = 0
        self.notes: list[tuple[int, Note]] = []
        self.side: dict[str, bytes | None] = {}
        self.touched: dict[int, Part] = {}
        self.touched_volatile: dict[int, Part] = {}
        self.volatile_changed = False
        #: Whether its records may be lost although its outcome has been told: then it is as if it had never been decided. Only for handing
        #: out what may be handed out again.
        self.may_trail = False
        self.effects: list[Callable[[], None]] = []
        #: Begins another run of the same chain, in the same commit: given its id, returns its step. The engine sets it.
        self.begin_run: Callable[[str], AnyStep] = no_transaction
        #: Of a run that this step creates: id and state of the run that was the current one before, "" and None for none.
        self.previous_run_id = ""
        self.previous_state: S | None = None
        self._undoes: list[Callable[[], None]] = []
        self._events: list[bytes] = []

    @property
    def events(self) -> bytes:
        """The events of this step as bytes of a ``History``."""
        return b"".join(self._events)

    @property
    def events_size(self) -> int:
        """Bytes of the events of this step."""
        return sum(map(len, self._events))

    @property
    def has_records(self) -> bool:
        return self.event_count > 0 or bool(self.notes) or bool(self.side)

    @property
    def has_changes(self) -> bool:
        """Whether the state is not what it was: something is recorded, or will be at the end of the step."""
        return self.has_records

    def append(self, event: HistoryEvent, *, applied: bool = False) -> None:
        """Record an event that has its id, and apply it. applied: its change was applied before; only its number is new."""
        data = event.SerializeToString()
        self._events.append(field_bytes(EVENTS_TAG, data))
        self.event_count += 1
        if not applied:
            self.kind.apply_event(self.state, event, self.touch)
        self.kind.number_event(self.state, event, data, self.touch)

    def finish(self) -> None:
        """Called once by the engine, after the decision: record what was put off to the end of the step."""

    def note(self, note: Note) -> None:
        """Record a private note, and apply it."""
        self.notes.append((self.event_count, note))
        self.kind.apply_note(self.state, note, self.touch)

    def put_side(self, name: str, data: bytes | None) -> None:
        """Overwrite side data (None deletes it), and apply it."""
        self.side[name] = data
        self.kind.apply_side(self.state, name, data, self.touch)

    def touch(self, part: Part) -> None:
        """Say that a part's jobs may have changed."""
        self.touched[id(part)] = part

    def touch_volatile(self, *parts: Part) -> None:
        """Say that something in memory only has changed, and which of its parts may imply other jobs now."""
        self.volatile_changed = True
        for part in parts:
            self.touched_volatile[id(part)] = part

    def on_undo(self, restore: Callable[[], None]) -> None:
        """Call something if the decision fails after all: it takes back one change of the volatile state."""
        self._undoes.append(restore)

    def undo(self) -> None:
        """Called by the engine when the decision failed: take back the changes of the volatile state, latest first."""
        while self._undoes:
            self._undoes.pop()()

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Call something once this step is durable (and never if it does not become so). Must be quick and must not raise."""
        self.effects.append(effect)


def no_transaction(run_id: str) -> AnyStep:
    """In place of :attr:`Step.begin_run` where there is no transaction."""
    raise RuntimeError("this step belongs to no transaction")


AnyStep = Step[Any, Any]
