"""The beginning of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata

from perdure.core.clock import duration_ns, timestamp_ns
from perdure.core.execution import Touch
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies, applies_note
from perdure.features.workflow.run.builds import inherited_reset_points
from perdure.features.workflow.run.options import keep_callbacks
from perdure.features.workflow.run.properties import merge_memo, merge_search_attributes
from perdure.features.workflow.run.versioning import apply_started
from perdure.features.workflow.state import FIRST_TASK_IDS, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task


@dataclass(slots=True)
class Start:
    """Everything a new run begins with; from a request, a parent, a schedule, or the run before.

    attributes: of the started event, complete but for the run ids. retention: of the namespace, nanoseconds.
    """

    attributes: WorkflowExecutionStartedEventAttributes
    request_id: str
    retention: int
    links: list[Link] = field(default_factory=list[Link])
    user_metadata: UserMetadata | None = None


def begin(step: WorkflowStep, start: Start, *, schedules_task: bool = True) -> None:
    """Record the start of a new run, and its first workflow task unless it has to wait."""
    key = step.key
    before = step.previous_state
    task_ids = before.earlier_task_ids + before.next_event_id - 1 if before is not None else 0
    step.note(notes.RunCreated(key.business_id, key.run_id, start.retention, start.request_id, step.previous_run_id, task_ids))
    attributes = start.attributes
    attributes.workflow_id = key.business_id
    attributes.original_execution_run_id = attributes.original_execution_run_id or key.run_id
    attributes.first_execution_run_id = attributes.first_execution_run_id or key.run_id
    step.event(attributes, links=start.links, user_metadata=start.user_metadata)
    if schedules_task:
        schedule_task(step)


@applies_note(notes.RunCreated)
def _created(state: WorkflowState, note: notes.RunCreated, touch: Touch) -> None:
    state.workflow_id = note.workflow_id
    state.run_id = note.run_id
    state.retention = note.retention
    state.start_request_id = note.start_request_id
    state.previous_run_id = note.previous_run_id
    state.earlier_task_ids = note.earlier_task_ids or FIRST_TASK_IDS


@applies_note(notes.RetentionChanged)
def _retention_changed(state: WorkflowState, note: notes.RetentionChanged, touch: Touch) -> None:
    state.retention = note.retention


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
def _started(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = WorkflowExecutionStartedEventAttributes()
    attributes.CopyFrom(event.workflow_execution_started_event_attributes)
    if not (attributes.HasField("retry_policy") or attributes.cron_schedule):
        for large in ("input", "header", "memo", "search_attributes", "last_completion_result", "continued_failure"):
            attributes.ClearField(large)  # history keeps them; a sleeping run should not, unless the next run begins with them
    state.started = attributes
    if state.start_request_id:
        state.request_ids[state.start_request_id] = (event.event_type, event.event_id)
    keep_callbacks(state, event, event.workflow_execution_started_event_attributes.completion_callbacks, state.start_request_id)
    apply_started(state, attributes)
    if attributes.HasField("versioning_override"):
        state.versioning_override = attributes.versioning_override
        state.was_overridden = True
    state.start_at = timestamp_ns(event.event_time)
    backoff = duration_ns(attributes.first_workflow_task_backoff)
    state.execution_at = state.start_at + backoff
    state.first_task_pending = backoff > 0
    if timeout := duration_ns(attributes.workflow_run_timeout):
        state.run_deadline = state.start_at + backoff + timeout
    if attributes.HasField("workflow_execution_expiration_time"):
        state.execution_deadline = timestamp_ns(attributes.workflow_execution_expiration_time)
    if attributes.HasField("retry_policy"):
        state.retry_policy = attributes.retry_policy
    state.priority.CopyFrom(attributes.priority)
    if event.HasField("user_metadata"):
        state.user_metadata = event.user_metadata
    merge_memo(state, event.workflow_execution_started_event_attributes.memo.fields)
    merge_search_attributes(state, event.workflow_execution_started_event_attributes.search_attributes.indexed_fields)
    state.start_links = list(event.links)
    state.reset_points = inherited_reset_points(attributes, state.start_at)
    touch(state)
