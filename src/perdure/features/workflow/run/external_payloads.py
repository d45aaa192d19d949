"""Payloads that workers keep in a storage of their own: history has a reference in their place, which says how big each of them is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from perdure.features.workflow.state import WorkflowState

_REFERENCE = re.compile(rb"\x1a(?:\x00|[\x02-\x7f]\x08)")
may_refer = _REFERENCE.search
"""Cheap, because it is asked for every serialized event: None when it surely refers to nothing. It looks for the third field of a message
that is itself a message, and is empty or begins with a number: so does every reference look, and little else."""

MOST_BYTES = 2**63 - 1
"""What the answer has room for. Each size is what a client says it is, and nobody checks it."""

COUNT = "TemporalExternalPayloadCount"
SIZE = "TemporalExternalPayloadSizeBytes"
_PAYLOAD = Payload.DESCRIPTOR.full_name
_SEARCH_ATTRIBUTES = SearchAttributes.DESCRIPTOR.full_name


def count_external_payloads(state: WorkflowState, event: HistoryEvent, data: bytes) -> None:
    """Note what an event refers to, if it may. data: the serialized event."""
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        # The longest interval of its retry policy looks like a reference, and nearly every activity has one.
        policy = event.activity_task_scheduled_event_attributes.retry_policy
        if policy.maximum_interval.seconds and len(_REFERENCE.findall(data)) == 1:
            return
    for payload in _payloads(event):
        for reference in payload.external_payloads:
            state.external_payload_count += 1
            state.external_payload_bytes = min(state.external_payload_bytes + max(reference.size_bytes, 0), MOST_BYTES)


def listed_attributes(state: WorkflowState) -> str:
    """A run's search attributes, as JSON, as lists show them: a closed run is found by what it refers to, too."""
    attributes = state.search_attributes_json
    if state.is_open or not state.external_payload_count:
        return attributes
    separator = "" if attributes == "{}" else ", "
    counts = f'"{COUNT}": {state.external_payload_count}, "{SIZE}": {state.external_payload_bytes}'
    return f"{attributes[:-1]}{separator}{counts}}}"


def _payloads(message: Message) -> Iterator[Payload]:
    if isinstance(message, Payload):
        yield message
        return
    ways = _ways(message.DESCRIPTOR)
    for oneof, names in ways.oneofs:
        name = message.WhichOneof(oneof)
        if name in names:
            yield from _payloads(getattr(message, name))
    for name in ways.single:
        if message.HasField(name):
            yield from _payloads(getattr(message, name))
    for name in ways.repeated:
        for inner in getattr(message, name):
            yield from _payloads(inner)
    for name in ways.maps:
        for inner in getattr(message, name).values():
            yield from _payloads(inner)


class _Ways(NamedTuple):
    """The names of the fields of a message behind which there may be payloads. oneofs: the name of each, and those of its fields."""

    oneofs: list[tuple[str, set[str]]]
    single: list[str]
    repeated: list[str]
    maps: list[str]


@cache
def _ways(descriptor: Descriptor) -> _Ways:
    oneofs: dict[str, set[str]] = {}
    ways = _Ways([], [], [], [])
    for field in descriptor.fields:
        if field.message_type is None or not _leads_to_payloads(field.message_type, set()):
            continue
        if field.containing_oneof is not None:
            oneofs.setdefault(field.containing_oneof.name, set()).add(field.name)
        elif field.message_type.GetOptions().map_entry:
            ways.maps.append(field.name)
        else:
            (ways.repeated if field.is_repeated else ways.single).append(field.name)
    ways.oneofs.extend(oneofs.items())
    return ways


def _leads_to_payloads(descriptor: Descriptor, seen: set[str]) -> bool:
    """Whether a message may hold payloads. Search attributes are never kept elsewhere."""
    if descriptor.full_name == _PAYLOAD:
        return True
    if descriptor.full_name == _SEARCH_ATTRIBUTES or descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(field.message_type is not None and _leads_to_payloads(field.message_type, seen) for field in descriptor.fields)
