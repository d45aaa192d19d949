"""What others do to a running workflow: signals and cancel requests."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Header, Link, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionCancelRequestedEventAttributes,
    WorkflowExecutionSignaledEventAttributes,
)

from perdure.core.errors import busy_workflow, invalid_argument, not_found
from perdure.core.execution import Touch
from perdure.features.workflow.other_runs.outgoing import message_id
from perdure.features.workflow.registry import applies, numbered
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import end_first_backoff, schedule_task

CLOSED = "workflow execution already completed"
CLOSING = "workflow operation can not be applied because workflow is closing"


def signal(
    step: WorkflowStep, name: str, request_id: str, *, input: Payloads | None = None, header: Header | None = None, identity: str = "",
    links: Iterable[Link] = (), external: WorkflowExecution | None = None, schedules_task: bool = True,
) -> None:  # fmt: skip
    """Record a signal, once per request id. Raises ApiError when the run is closed, or closing, or has had too many signals."""
    state = step.state
    if request_id and request_id in state.signal_request_ids:
        return
    if not state.is_open:
        raise not_found(CLOSED)
    if input is not None and input.ByteSize() > step.limits.blob_size_error_bytes:
        raise invalid_argument("Blob data size exceeds limit.")
    if state.signal_count >= step.limits.signals_per_execution > 0:
        raise invalid_argument("exceeded workflow execution limit for signal events")
    if state.close_attempted and step.task.is_started:
        raise busy_workflow(CLOSING)
    step.event(
        WorkflowExecutionSignaledEventAttributes(
            signal_name=name, input=input, identity=identity, header=header, external_workflow_execution=external, request_id=request_id
        ),
        links=links,
    )
    if schedules_task:
        schedule_task(step)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
def _signaled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.signal_count += 1
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if request_id:
        state.signal_request_ids[request_id] = 0


@numbered(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
def _signal_numbered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    request_id = event.workflow_execution_signaled_event_attributes.request_id
    if request_id:
        state.signal_request_ids[request_id] = event.event_id


def request_cancel(
    step: WorkflowStep, request_id: str, *, identity: str, reason: str, links: Iterable[Link] = (), initiated_event_id: int = 0,
    external: WorkflowExecution | None = None,
) -> None:  # fmt: skip
    """Ask the run to cancel itself. A closed run and a repeated request answer with success and write nothing."""
    state = step.state
    if not state.is_open or state.cancel_requested:
        return
    step.event(
        WorkflowExecutionCancelRequestedEventAttributes(
            cause=reason, identity=identity, external_initiated_event_id=initiated_event_id, external_workflow_execution=external
        ),
        links=links,
    )
    end_first_backoff(step)
    schedule_task(step)


@applies(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
def _cancel_requested(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.cancel_requested = True
    attributes = event.workflow_execution_cancel_requested_event_attributes
    if attributes.HasField("external_workflow_execution"):
        state.cancel_request_id = message_id(attributes.external_workflow_execution.run_id, attributes.external_initiated_event_id)
