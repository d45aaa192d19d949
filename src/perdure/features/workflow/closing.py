"""How a run ends: completed, failed, canceled, terminated, timed out."""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Link, Payloads
from temporalio.api.enums.v1 import CommandType, EventType, RetryState, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes,
    WorkflowExecutionTimedOutEventAttributes,
)

from perdure.core.clock import timestamp_ns
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow.completion import CommandRefused, Completion
from perdure.features.workflow.jobs import RunTimeout
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task import fail_task

SERVER_IDENTITY = "history-service"

E = EventType
STATUS_OF = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: Status.COMPLETED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: Status.FAILED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: Status.CANCELED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: Status.TERMINATED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: Status.TIMED_OUT,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: Status.CONTINUED_AS_NEW,
}


@applies(*STATUS_OF)
def _closed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Whatever was pending ends with the run: no part of it implies a job any more."""
    state.status = STATUS_OF[event.event_type]
    state.close_at = timestamp_ns(event.event_time)
    state.close_event_id = event.event_id
    state.first_task_pending = False
    touch(state)


def close(step: WorkflowStep, attributes: Message, *, links: list[Link] | None = None) -> None:
    """End the run from outside or by the clock: a running task fails first, then what was buffered, then the close."""
    if step.task.is_started:
        fail_task(step, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, SERVER_IDENTITY)
    step.set_speculative(None)
    step.flush()
    step.event(attributes, links=links or ())


def terminate(step: WorkflowStep, reason: str, identity: str, details: Payloads | None = None, links: list[Link] | None = None) -> None:
    """End the run at once; its code is not asked."""
    close(step, WorkflowExecutionTerminatedEventAttributes(reason=reason, details=details, identity=identity), links=links)


@decides(RunTimeout)
def time_out_run(step: WorkflowStep, job: RunTimeout) -> None:
    close(step, WorkflowExecutionTimedOutEventAttributes(retry_state=RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET))


@command(CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
def complete(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.complete_workflow_execution_command_attributes
    step.event(
        WorkflowExecutionCompletedEventAttributes(
            result=attributes.result if attributes.HasField("result") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        user_metadata=command.user_metadata,
    )


@command(CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
def fail(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.fail_workflow_execution_command_attributes
    if not attributes.HasField("failure"):
        cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
        raise CommandRefused(cause, "Failure is not set on FailWorkflowExecutionCommand.")
    step.event(
        WorkflowExecutionFailedEventAttributes(
            failure=attributes.failure,
            retry_state=RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        user_metadata=command.user_metadata,
    )


@command(CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
def cancel(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.cancel_workflow_execution_command_attributes
    step.event(
        WorkflowExecutionCanceledEventAttributes(
            details=attributes.details if attributes.HasField("details") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        user_metadata=command.user_metadata,
    )
