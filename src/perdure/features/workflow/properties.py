"""What a run says about itself: search attributes, memo, markers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Memo, Payload
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    MarkerRecordedEventAttributes,
    UpsertWorkflowSearchAttributesEventAttributes,
    WorkflowPropertiesModifiedEventAttributes,
)

from perdure.core.execution import Touch
from perdure.features.workflow.completion import CommandRefused, Completion
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

Cause = WorkflowTaskFailedCause


@command(CommandType.COMMAND_TYPE_RECORD_MARKER)
def record_marker(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.record_marker_command_attributes
    if not attributes.marker_name:
        raise CommandRefused(Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES, "MarkerName is not set on RecordMarkerCommand.")
    step.event(
        MarkerRecordedEventAttributes(
            marker_name=attributes.marker_name, details=attributes.details, header=attributes.header if attributes.HasField("header") else None,
            failure=attributes.failure if attributes.HasField("failure") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        user_metadata=command.user_metadata,
    )  # fmt: skip


@applies(EventType.EVENT_TYPE_MARKER_RECORDED)
def _marker_recorded(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Markers are the worker's own; the server only keeps them."""


@command(CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def upsert_search_attributes(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.upsert_workflow_search_attributes_command_attributes
    step.event(
        UpsertWorkflowSearchAttributesEventAttributes(
            search_attributes=attributes.search_attributes, workflow_task_completed_event_id=completion.completed_event_id
        )
    )


@applies(EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
def _search_attributes_upserted(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    merge_search_attributes(state, event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields)


@command(CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
def modify_properties(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.modify_workflow_properties_command_attributes
    step.event(
        WorkflowPropertiesModifiedEventAttributes(
            upserted_memo=attributes.upserted_memo if attributes.HasField("upserted_memo") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        )
    )


@applies(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED)
def _properties_modified(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    merge_memo(state, event.workflow_properties_modified_event_attributes.upserted_memo.fields)


def is_null(payload: Payload) -> bool:
    """Whether a payload means "remove this": null, or no value at all."""
    return payload.metadata.get("encoding") == b"binary/null" or payload.data in (b"null", b"[]")


def merge_search_attributes(state: WorkflowState, fields: Mapping[str, Payload]) -> None:
    """Take over search attributes; a null removes one."""
    for name, payload in fields.items():
        if is_null(payload):
            state.search_attributes.pop(name, None)
        else:
            state.search_attributes[name] = payload
    state.search_attributes_json = json.dumps({n: _value(p) for n, p in sorted(state.search_attributes.items())})


def merge_memo(state: WorkflowState, fields: Mapping[str, Payload]) -> None:
    """Take over memo fields; a null removes one."""
    for name, payload in fields.items():
        if is_null(payload):
            state.memo.pop(name, None)
        else:
            state.memo[name] = payload
    state.memo_bytes = Memo(fields=state.memo).SerializeToString(deterministic=True)


def _value(payload: Payload) -> object:
    try:
        return json.loads(payload.data)
    except ValueError:
        return None
