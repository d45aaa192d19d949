"""What a run says about itself: search attributes, memo, markers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Memo, Payload, SearchAttributes
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    MarkerRecordedEventAttributes,
    UpsertWorkflowSearchAttributesEventAttributes,
    WorkflowPropertiesModifiedEventAttributes,
)

from perdure.core.execution import Touch
from perdure.features.search_attributes.values import (
    check_search_attribute_names,
    check_search_attribute_sizes,
    typed_search_attributes,
)
from perdure.features.workflow.commands import CommandRefused, Completion, refuse_if_too_big, refusing, require_attributes
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

Cause = WorkflowTaskFailedCause


@command(CommandType.COMMAND_TYPE_RECORD_MARKER)
def record_marker(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
    require_attributes(command, "record_marker_command_attributes", cause)
    attributes = command.record_marker_command_attributes
    name = attributes.marker_name
    if not name:
        raise CommandRefused(cause, "MarkerName is not set on RecordMarkerCommand.")
    limit = step.limits.max_id_length
    if (length := len(name.encode())) > limit:
        message = f"MarkerName on RecordMarkerCommand exceeds length limit. MarkerName={name} Length={length} Limit={limit}"
        raise CommandRefused(cause, message)
    details_size = sum(len(key.encode()) + value.ByteSize() for key, value in attributes.details.items())
    refuse_if_too_big(details_size, step.limits.blob_size_error_bytes, cause, "RecordMarkerCommandAttributes.Details exceeds size limit.")
    step.event(
        MarkerRecordedEventAttributes(
            marker_name=name, details=attributes.details, header=attributes.header if attributes.HasField("header") else None,
            failure=attributes.failure if attributes.HasField("failure") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        command=command,
    )  # fmt: skip


@applies(EventType.EVENT_TYPE_MARKER_RECORDED)
def _marker_recorded(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Markers are the worker's own; the server only keeps them."""


@command(CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def upsert_search_attributes(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    attributes = command.upsert_workflow_search_attributes_command_attributes
    given = attributes.search_attributes
    with refusing(cause):
        check_search_attribute_names(given, step.namespace)
    require_attributes(command, "upsert_workflow_search_attributes_command_attributes", cause)
    if not attributes.HasField("search_attributes"):
        raise CommandRefused(cause, "SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand.")
    if not given.indexed_fields:
        raise CommandRefused(cause, "IndexedFields is not set on UpsertWorkflowSearchAttributesCommand.")
    with refusing(cause):
        typed = typed_search_attributes(given, step.namespace, step.limits)
    message = "UpsertWorkflowSearchAttributesCommandAttributes exceeds size limit."
    refuse_if_too_big(map_size(given.indexed_fields), step.limits.blob_size_error_bytes, cause, message)
    with refusing(cause, terminate=True):
        result = SearchAttributes(indexed_fields=merged(step.state.search_attributes, given.indexed_fields))
        check_search_attribute_sizes(result, step.limits)
    step.event(
        UpsertWorkflowSearchAttributesEventAttributes(
            search_attributes=typed, workflow_task_completed_event_id=completion.completed_event_id
        ),
        command=command,
    )


@applies(EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def _search_attributes_upserted(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    merge_search_attributes(state, event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields)


@command(CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
def modify_properties(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES
    require_attributes(command, "modify_workflow_properties_command_attributes", cause)
    attributes = command.modify_workflow_properties_command_attributes
    if not attributes.HasField("upserted_memo"):
        raise CommandRefused(cause, "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.")
    fields = attributes.upserted_memo.fields
    if not fields:
        raise CommandRefused(cause, "UpsertedMemo.Fields is not set on ModifyWorkflowPropertiesCommand.")
    message = "ModifyWorkflowPropertiesCommandAttributes exceeds size limit."
    refuse_if_too_big(map_size(fields), step.limits.blob_size_error_bytes, cause, message)
    memo_size = Memo(fields=merged(step.state.memo, fields)).ByteSize()
    message = "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size limit."
    refuse_if_too_big(memo_size, step.limits.memo_size_error_bytes, cause, message)
    step.event(
        WorkflowPropertiesModifiedEventAttributes(
            upserted_memo=attributes.upserted_memo, workflow_task_completed_event_id=completion.completed_event_id
        ),
        command=command,
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED)
def _properties_modified(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    merge_memo(state, event.workflow_properties_modified_event_attributes.upserted_memo.fields)


def is_null(payload: Payload) -> bool:
    """Whether a payload means "remove this": null, an empty list, or no value at all."""
    return payload.data in (b"", b"null", b"[]")


def map_size(fields: Mapping[str, Payload]) -> int:
    """Bytes of the names and of the data."""
    return sum(len(name.encode()) + len(payload.data) for name, payload in fields.items())


def merged(old: Mapping[str, Payload], new: Mapping[str, Payload]) -> dict[str, Payload]:
    """The old fields with the new ones over them; a null removes one."""
    result = {**old, **new}
    return {name: payload for name, payload in result.items() if not is_null(payload)}


def merge_search_attributes(state: WorkflowState, fields: Mapping[str, Payload]) -> None:
    """Take over search attributes; a null removes one."""
    state.search_attributes = merged(state.search_attributes, fields)
    state.search_attributes_json = "{" + ", ".join(_member(n, p.data) for n, p in sorted(state.search_attributes.items())) + "}"


def merge_memo(state: WorkflowState, fields: Mapping[str, Payload]) -> None:
    """Take over memo fields; a null removes one."""
    state.memo = merged(state.memo, fields)
    state.memo_bytes = Memo(fields=state.memo).SerializeToString(deterministic=True)


@functools.lru_cache(1000)
def _member(name: str, data: bytes) -> str:
    """A search attribute as a member of a JSON object; many runs have the same."""
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    return f"{json.dumps(name)}: {json.dumps(value)}"
