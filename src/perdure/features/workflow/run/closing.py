"""How a run ends: completed, failed, canceled, terminated, timed out."""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Link, Payloads
from temporalio.api.enums.v1 import CommandType, ContinueAsNewInitiator, EventType, RetryState, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, TimeoutFailureInfo
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
from perdure.features.workflow.commands import CommandRefused, Completion, refuse_if_too_big, require_attributes
from perdure.features.workflow.jobs import RunTimeout
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.run.builds import end_reset_points
from perdure.features.workflow.run.new_run import NextRun, after_failure, after_success, begin_again
from perdure.features.workflow.run.pause_info import forget_paused_activities
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import fail_task

SERVER_IDENTITY = "history-service"
RESETTER_IDENTITY = "history-resetter"

Cause = WorkflowTaskFailedCause

E = EventType
STATUS_OF = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: Status.COMPLETED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: Status.FAILED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: Status.CANCELED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: Status.TERMINATED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: Status.TIMED_OUT,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: Status.CONTINUED_AS_NEW,
}


NEW_RUN_FIELDS = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "workflow_execution_completed_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "workflow_execution_failed_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "workflow_execution_timed_out_event_attributes",
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "workflow_execution_continued_as_new_event_attributes",
}
"""Close events that may name the run that follows."""


@applies(*STATUS_OF)
def _closed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Whatever was pending ends with the run: no part of it implies a job any more, but for what others have to be told."""
    state.status = STATUS_OF[event.event_type]
    state.close_at = timestamp_ns(event.event_time)
    state.close_event_id = event.event_id
    state.first_task_pending = False
    field = NEW_RUN_FIELDS.get(event.event_type)
    state.new_run_id = getattr(event, field).new_execution_run_id if field is not None else ""
    if state.new_run_id:
        end_reset_points(state)
    if state.started.HasField("parent_workflow_execution") and not state.new_run_id and not state.has_successor_for_parent:
        state.unreported = event
    for child in state.children.values():
        touch(child)
    forget_paused_activities(state)
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


def run_timeout_failure() -> Failure:
    """What a run that ran out of time leaves to the one that follows it."""
    return Failure(
        message="workflow timeout", source="Server",
        timeout_failure_info=TimeoutFailureInfo(timeout_type=TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE),
    )  # fmt: skip


@decides(RunTimeout)
def time_out_run(step: WorkflowStep, job: RunTimeout) -> None:
    """The next run of a retry policy or cron schedule may follow, unless the whole execution ran out of time."""
    failure = run_timeout_failure()
    next_run: NextRun | None = None
    retry_state: RetryState.ValueType = RetryState.RETRY_STATE_TIMEOUT
    if not 0 < step.state.execution_deadline <= step.now:
        next_run, retry_state = after_failure(step, failure)
    new_run_id = next_run.run_id if next_run is not None else ""
    close(step, WorkflowExecutionTimedOutEventAttributes(retry_state=retry_state, new_execution_run_id=new_run_id))
    if next_run is not None:
        begin_again(step, next_run, last_result(step.state), failure)


def last_result(state: WorkflowState) -> Payloads | None:
    """What the last successful run of a cron schedule returned."""
    return state.started.last_completion_result if state.started.HasField("last_completion_result") else None


@command(CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
def complete(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES
    require_attributes(command, "complete_workflow_execution_command_attributes", cause)
    attributes = command.complete_workflow_execution_command_attributes
    result = attributes.result if attributes.HasField("result") else None
    # The cause is the official server's mistake; clients see it.
    refuse_if_too_big(
        attributes.result.ByteSize(), step.limits.blob_size_error_bytes, Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.",
    )  # fmt: skip
    next_run = after_success(step)
    step.event(
        WorkflowExecutionCompletedEventAttributes(
            result=result, workflow_task_completed_event_id=completion.completed_event_id,
            new_execution_run_id=next_run.run_id if next_run is not None else "",
        ),
        command=command,
    )  # fmt: skip
    if next_run is not None:
        begin_again(step, next_run, result, None)


@command(CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
def fail(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
    require_attributes(command, "fail_workflow_execution_command_attributes", cause)
    attributes = command.fail_workflow_execution_command_attributes
    if not attributes.HasField("failure"):
        raise CommandRefused(cause, "Failure is not set on FailWorkflowExecutionCommand.")
    failure = attributes.failure
    message = "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit."
    refuse_if_too_big(failure.ByteSize(), step.limits.blob_size_error_bytes, cause, message)
    next_run, retry_state = after_failure(step, failure)
    step.event(
        WorkflowExecutionFailedEventAttributes(
            failure=failure, retry_state=retry_state, workflow_task_completed_event_id=completion.completed_event_id,
            new_execution_run_id=next_run.run_id if next_run is not None else "",
        ),
        command=command,
    )  # fmt: skip
    if next_run is not None:
        is_cron = next_run.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        begin_again(step, next_run, last_result(step.state) if is_cron else None, failure)


@command(CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
def cancel(step: WorkflowStep, command: Command, completion: Completion) -> None:
    require_attributes(
        command, "cancel_workflow_execution_command_attributes", Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES
    )
    attributes = command.cancel_workflow_execution_command_attributes
    step.event(
        WorkflowExecutionCanceledEventAttributes(
            details=attributes.details if attributes.HasField("details") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        command=command,
    )
