"""Signals and cancel requests that a workflow sends to other workflows."""

from __future__ import annotations

import uuid

from temporalio.api.command.v1 import Command, SignalExternalWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    CommandType,
    EventType,
    SignalExternalWorkflowExecutionFailedCause,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import (
    ExternalWorkflowExecutionCancelRequestedEventAttributes,
    ExternalWorkflowExecutionSignaledEventAttributes,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionFailedEventAttributes,
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionFailedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
)

from perdure.core.clock import timestamp_ns
from perdure.core.execution import Touch
from perdure.features.workflow.commands import (
    CommandRefused,
    Completion,
    refuse_if_too_big,
    refuse_if_too_many,
    refusing,
    require_attributes,
)
from perdure.features.workflow.other_runs.children import refuse_other_namespace, target_namespace
from perdure.features.workflow.other_runs.outgoing import ExternalCancel, ExternalSignal
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task
from perdure.features.workflow.validation import check_storable

E = EventType
Cause = WorkflowTaskFailedCause

CANCEL_CAUSE = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES
CANCEL_NAME = "RequestCancelExternalWorkflowExecutionCommand"
SIGNAL_CAUSE = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
SIGNAL_NAME = "SignalExternalWorkflowExecutionCommand"


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


# -- cancel requests ---------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
def request_cancel_external(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.request_cancel_external_workflow_execution_command_attributes
    namespace = target_namespace(step, attributes.namespace)
    require_attributes(command, "request_cancel_external_workflow_execution_command_attributes", CANCEL_CAUSE)
    refuse_other_namespace(step, namespace, CANCEL_CAUSE)
    workflow_id, run_id, given = attributes.workflow_id, attributes.run_id, attributes.namespace
    limit = step.limits.max_id_length
    if not workflow_id:
        raise CommandRefused(CANCEL_CAUSE, f"WorkflowId is not set on {CANCEL_NAME}. Namespace={given} RunId={run_id}")
    with refusing(CANCEL_CAUSE):
        check_storable(workflow_id, f"WorkflowId on {CANCEL_NAME}")
    if (length := len(workflow_id.encode())) > limit:
        message = f"WorkflowId={workflow_id} Length={length} Limit={limit} RunId={run_id} Namespace={given}"
        raise CommandRefused(CANCEL_CAUSE, f"WorkflowId on {CANCEL_NAME} exceeds length limit. {message}")
    shown = f"WorkflowId={workflow_id} RunId={run_id} Namespace={given}"
    if run_id and not _is_uuid(run_id):
        raise CommandRefused(CANCEL_CAUSE, f"Invalid RunId set on {CANCEL_NAME}. {shown}")
    if workflow_id in completion.started_children:
        message = "Start and RequestCancel for child workflow is not allowed in same workflow task."
        raise CommandRefused(CANCEL_CAUSE, f"{message} {shown}")
    refuse_if_too_many(
        len(step.state.external_cancels), step.limits.pending_external_cancels,
        Cause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED, "pending requests to cancel external workflows",
    )  # fmt: skip
    initiated = RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(
        workflow_task_completed_event_id=completion.completed_event_id, namespace_id=namespace.id,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), child_workflow_only=attributes.child_workflow_only,
        reason=attributes.reason,
    )  # fmt: skip
    initiated.namespace = given  # pyright: ignore[reportDeprecated]
    initiated.control = attributes.control  # pyright: ignore[reportDeprecated]
    step.event(initiated, command=command)


@applies(E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _cancel_initiated(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.request_cancel_external_workflow_execution_initiated_event_attributes
    cancel = state.external_cancels[event.event_id] = ExternalCancel(event.event_id, timestamp_ns(event.event_time), attributes)
    touch(cancel)


def cancel_delivered(step: WorkflowStep, initiated_event_id: int, namespace: str) -> None:
    """The other workflow has the cancel request. Ignored when that is known, or when the sender has closed."""
    cancel = step.state.external_cancels.get(initiated_event_id)
    if cancel is None or not step.state.is_open:
        return
    step.event(
        ExternalWorkflowExecutionCancelRequestedEventAttributes(
            initiated_event_id=initiated_event_id, namespace=namespace, namespace_id=cancel.attributes.namespace_id,
            workflow_execution=cancel.attributes.workflow_execution,
        )
    )  # fmt: skip
    schedule_task(step)


def cancel_failed(
    step: WorkflowStep, initiated_event_id: int, namespace: str, cause: CancelExternalWorkflowExecutionFailedCause.ValueType
) -> None:
    """The cancel request could not be delivered."""
    cancel = step.state.external_cancels.get(initiated_event_id)
    if cancel is None or not step.state.is_open:
        return
    failed = RequestCancelExternalWorkflowExecutionFailedEventAttributes(
        cause=cause, initiated_event_id=initiated_event_id, namespace=namespace, namespace_id=cancel.attributes.namespace_id,
        workflow_execution=cancel.attributes.workflow_execution,
    )  # fmt: skip
    step.event(failed)
    schedule_task(step)


@applies(E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
def _cancel_delivered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.external_cancels.pop(event.external_workflow_execution_cancel_requested_event_attributes.initiated_event_id, None)


@applies(E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
def _cancel_failed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.external_cancels.pop(event.request_cancel_external_workflow_execution_failed_event_attributes.initiated_event_id, None)


# -- signals ---------------------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
def signal_external(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.signal_external_workflow_execution_command_attributes
    namespace = target_namespace(step, attributes.namespace)
    require_attributes(command, "signal_external_workflow_execution_command_attributes", SIGNAL_CAUSE)
    if not attributes.HasField("execution"):
        raise CommandRefused(SIGNAL_CAUSE, f"Execution is not set on {SIGNAL_NAME}.")
    refuse_other_namespace(step, namespace, SIGNAL_CAUSE)
    _check_signal(step, attributes)
    refuse_if_too_many(
        len(step.state.external_signals), step.limits.pending_external_signals,
        Cause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED, "pending signals to external workflows",
    )  # fmt: skip
    message = "SignalExternalWorkflowExecutionCommandAttributes.Input exceeds size limit."
    refuse_if_too_big(attributes.input.ByteSize(), step.limits.blob_size_error_bytes, SIGNAL_CAUSE, message)
    initiated = SignalExternalWorkflowExecutionInitiatedEventAttributes(
        workflow_task_completed_event_id=completion.completed_event_id, namespace_id=namespace.id,
        workflow_execution=attributes.execution, signal_name=attributes.signal_name,
        input=attributes.input if attributes.HasField("input") else None,
        header=attributes.header if attributes.HasField("header") else None,
        child_workflow_only=attributes.child_workflow_only,
    )  # fmt: skip
    initiated.namespace = attributes.namespace  # pyright: ignore[reportDeprecated]
    initiated.control = attributes.control  # pyright: ignore[reportDeprecated]
    step.event(initiated, command=command)


def _check_signal(step: WorkflowStep, attributes: SignalExternalWorkflowExecutionCommandAttributes) -> None:
    workflow_id, run_id = attributes.execution.workflow_id, attributes.execution.run_id
    given, name, limit = attributes.namespace, attributes.signal_name, step.limits.max_id_length
    if not workflow_id:
        raise CommandRefused(SIGNAL_CAUSE, f"WorkflowId is not set on {SIGNAL_NAME}. Namespace={given} RunId={run_id} SignalName={name}")
    with refusing(SIGNAL_CAUSE):
        check_storable(workflow_id, f"WorkflowId on {SIGNAL_NAME}")
    if (length := len(workflow_id.encode())) > limit:
        message = f"WorkflowId={workflow_id} Length={length} Limit={limit} Namespace={given} RunId={run_id} SignalName={name}"
        raise CommandRefused(SIGNAL_CAUSE, f"WorkflowId on {SIGNAL_NAME} exceeds length limit. {message}")
    if run_id and not _is_uuid(run_id):
        message = f"WorkflowId={workflow_id} Namespace={given} RunId={run_id} SignalName={name}"
        raise CommandRefused(SIGNAL_CAUSE, f"Invalid RunId set on {SIGNAL_NAME}. {message}")
    if not name:
        message = f"WorkflowId={workflow_id} Namespace={given} RunId={run_id}"
        raise CommandRefused(SIGNAL_CAUSE, f"SignalName is not set on {SIGNAL_NAME}. {message}")


@applies(E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
def _signal_initiated(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    signal = state.external_signals[event.event_id] = ExternalSignal(event.event_id, timestamp_ns(event.event_time), attributes)
    touch(signal)


def signal_delivered(step: WorkflowStep, initiated_event_id: int, namespace: str) -> None:
    """The other workflow has the signal. Ignored when that is known, or when the sender has closed."""
    signal = step.state.external_signals.get(initiated_event_id)
    if signal is None or not step.state.is_open:
        return
    delivered = ExternalWorkflowExecutionSignaledEventAttributes(
        initiated_event_id=initiated_event_id, namespace=namespace, namespace_id=signal.attributes.namespace_id,
        workflow_execution=signal.attributes.workflow_execution,
    )  # fmt: skip
    delivered.control = signal.attributes.control  # pyright: ignore[reportDeprecated]
    step.event(delivered)
    schedule_task(step)


def signal_failed(
    step: WorkflowStep, initiated_event_id: int, namespace: str, cause: SignalExternalWorkflowExecutionFailedCause.ValueType
) -> None:
    """The signal could not be delivered."""
    signal = step.state.external_signals.get(initiated_event_id)
    if signal is None or not step.state.is_open:
        return
    failed = SignalExternalWorkflowExecutionFailedEventAttributes(
        cause=cause, initiated_event_id=initiated_event_id, namespace=namespace, namespace_id=signal.attributes.namespace_id,
        workflow_execution=signal.attributes.workflow_execution,
    )  # fmt: skip
    failed.control = signal.attributes.control  # pyright: ignore[reportDeprecated]
    step.event(failed)
    schedule_task(step)


@applies(E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
def _signal_delivered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.external_signals.pop(event.external_workflow_execution_signaled_event_attributes.initiated_event_id, None)


@applies(E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
def _signal_failed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.external_signals.pop(event.signal_external_workflow_execution_failed_event_attributes.initiated_event_id, None)
