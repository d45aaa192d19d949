"""Where appliers and command handlers register, once each; lists of events, notes and commands are derived from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.history.v1 import HistoryEvent

from perdure.core.execution import Touch
from perdure.core.records import Note
from perdure.features.workflow.state import WorkflowState

EventApplier = Callable[[WorkflowState, HistoryEvent, Touch], None]
NoteApplier = Callable[[WorkflowState, Any, Touch], None]

EVENT_APPLIERS: dict[int, EventApplier] = {}
NUMBERED: dict[int, EventApplier] = {}
NOTE_APPLIERS: dict[type[Note], NoteApplier] = {}
COMMANDS: dict[int, Callable[..., None]] = {}

N = TypeVar("N", bound=Note)
A = TypeVar("A", bound=EventApplier)

ATTRIBUTES: dict[type[Message], tuple[int, str]] = {}
"""Attribute message class → (event type, field of HistoryEvent): the API names them alike."""
for _field in HistoryEvent.DESCRIPTOR.oneofs_by_name["attributes"].fields:
    _event_type = "EVENT_TYPE_" + _field.name.removesuffix("_event_attributes").upper()
    if _event_type in EventType.keys():  # noqa: SIM118  not a dict
        ATTRIBUTES[_field.message_type._concrete_class] = (EventType.Value(_event_type), _field.name)  # pyright: ignore


def applies(*event_types: int) -> Callable[[A], A]:
    """Register what an event changes. A bufferable event is applied before it has its id; see :func:`numbered`."""

    def register(applier: A) -> A:
        for event_type in event_types:
            _once(EVENT_APPLIERS, event_type, applier)
        return applier

    return register


def numbered(*event_types: int) -> Callable[[A], A]:
    """Register what changes when a bufferable event gets its id (for those whose id is needed later)."""

    def register(applier: A) -> A:
        for event_type in event_types:
            _once(NUMBERED, event_type, applier)
        return applier

    return register


def applies_note(note_type: type[N]) -> Callable[[Callable[[WorkflowState, N, Touch], None]], Callable[[WorkflowState, N, Touch], None]]:
    """Register what a note changes."""

    def register(applier: Callable[[WorkflowState, N, Touch], None]) -> Callable[[WorkflowState, N, Touch], None]:
        _once(NOTE_APPLIERS, note_type, applier)
        return applier

    return register


def command(command_type: CommandType.ValueType) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decision of a worker's command: ``handler(step, command, context)``."""

    def register(handler: Callable[..., None]) -> Callable[..., None]:
        _once(COMMANDS, command_type, handler)
        return handler

    return register


def attributes_of(command: Command) -> Any:
    """The attributes that a command carries, None if it has none."""
    which = command.WhichOneof("attributes")
    return getattr(command, which) if which else None


def _once(table: dict[Any, Any], key: Any, value: Any) -> None:
    if key in table:
        raise ValueError(f"two entries for {key}")
    table[key] = value
