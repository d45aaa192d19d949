"""Activities of a workflow run: scheduled by command, attempted by workers, retried by policy, timed out by the clock.

| from               | intent                 | to                 | record                                                          |
|--------------------|------------------------|--------------------|-----------------------------------------------------------------|
| –                  | schedule               | SCHEDULED          | ACTIVITY_TASK_SCHEDULED                                         |
| SCHEDULED          | start                  | STARTED            | note (the started event is written when the activity ends)      |
| STARTED            | complete               | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_COMPLETED                  |
| STARTED            | fail, time out, retry  | SCHEDULED (later)  | note                                                            |
| STARTED            | fail, time out         | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_FAILED or …_TIMED_OUT      |
| STARTED            | cancel, confirmed      | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_CANCELED                   |
| SCHEDULED          | time out               | –                  | ACTIVITY_TASK_TIMED_OUT                                         |
| SCHEDULED          | request cancel         | –                  | ACTIVITY_TASK_CANCEL_REQUESTED, ACTIVITY_TASK_CANCELED          |
| STARTED            | request cancel         | STARTED            | ACTIVITY_TASK_CANCEL_REQUESTED; told by heartbeat               |
"""

from __future__ import annotations

import msgspec
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, Payload, Payloads, RetryPolicy, WorkerVersionStamp
from temporalio.api.enums.v1 import CommandType, EventType, RetryState, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, TimeoutFailureInfo
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCancelRequestedEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
    ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
    HistoryEvent,
)

from perdure.core.clock import SECOND, duration_ns, timestamp_ns, to_duration
from perdure.core.codec import Codec
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow import notes
from perdure.features.workflow.activity_state import Activity
from perdure.features.workflow.completion import CommandRefused, Completion
from perdure.features.workflow.jobs import ActivityTimeout
from perdure.features.workflow.registry import applies, applies_note, command
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task import schedule_task

Cause = WorkflowTaskFailedCause

DEFAULT_INITIAL_INTERVAL = SECOND
DEFAULT_COEFFICIENT = 2.0
DEFAULT_MAXIMUM_INTERVAL_COEFFICIENT = 100


class Heartbeat(msgspec.Struct, array_like=True):
    """Side data of an activity: its last heartbeat. at: 0 when only the details of an earlier attempt are kept."""

    at: int
    details: Payloads | None


_HEARTBEAT: Codec[Heartbeat] = Codec(Heartbeat)


# -- scheduling ------------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
def schedule_activity(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.schedule_activity_task_command_attributes
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
    if attributes.activity_id in step.state.activity_ids:
        duplicate = Cause.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID
        raise CommandRefused(duplicate, f"invalid history builder state for action: add-activitytask-scheduled-event, ActivityID: {attributes.activity_id}")
    if not attributes.activity_id:
        raise CommandRefused(cause, "ActivityId is not set on ScheduleActivityTaskCommand.")
    retry_policy = RetryPolicy()
    retry_policy.CopyFrom(attributes.retry_policy)
    fill_retry_policy(retry_policy)
    run_timeout = duration_ns(step.state.started.workflow_run_timeout)
    to_close, to_start, start_to_close, heartbeat = normalize_timeouts(
        duration_ns(attributes.schedule_to_close_timeout), duration_ns(attributes.schedule_to_start_timeout),
        duration_ns(attributes.start_to_close_timeout), duration_ns(attributes.heartbeat_timeout), run_timeout,
    )  # fmt: skip
    step.event(
        ActivityTaskScheduledEventAttributes(
            activity_id=attributes.activity_id, activity_type=ActivityType(name=attributes.activity_type.name), task_queue=attributes.task_queue,
            header=attributes.header if attributes.HasField("header") else None, input=attributes.input if attributes.HasField("input") else None,
            schedule_to_close_timeout=to_duration(to_close), schedule_to_start_timeout=to_duration(to_start),
            start_to_close_timeout=to_duration(start_to_close), heartbeat_timeout=to_duration(heartbeat),
            workflow_task_completed_event_id=completion.completed_event_id, retry_policy=retry_policy,
            use_workflow_build_id=attributes.use_workflow_build_id, priority=attributes.priority if attributes.HasField("priority") else None,
        ),
        user_metadata=command.user_metadata,
    )  # fmt: skip


def fill_retry_policy(policy: RetryPolicy) -> None:
    """Unset fields get the defaults: 1 s, doubling, up to 100 times the first interval, without a limit of attempts."""
    if not duration_ns(policy.initial_interval):
        policy.initial_interval.CopyFrom(to_duration(DEFAULT_INITIAL_INTERVAL))
    if not policy.backoff_coefficient:
        policy.backoff_coefficient = DEFAULT_COEFFICIENT
    if not duration_ns(policy.maximum_interval):
        policy.maximum_interval.CopyFrom(to_duration(DEFAULT_MAXIMUM_INTERVAL_COEFFICIENT * duration_ns(policy.initial_interval)))


def normalize_timeouts(to_close: int, to_start: int, start_to_close: int, heartbeat: int, run_timeout: int) -> tuple[int, int, int, int]:
    """Fill each timeout from the others and cap all by the run's: (schedule-to-close, schedule-to-start, start-to-close, heartbeat)."""
    if to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    elif start_to_close and run_timeout:
        to_close = run_timeout
        to_start = to_start or run_timeout
    if run_timeout:
        to_close, to_start, start_to_close, heartbeat = (min(t, run_timeout) for t in (to_close, to_start, start_to_close, heartbeat))
    return to_close, to_start, start_to_close, min(heartbeat, start_to_close)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
def _scheduled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = ActivityTaskScheduledEventAttributes()
    attributes.CopyFrom(event.activity_task_scheduled_event_attributes)
    at = timestamp_ns(event.event_time)
    activity = state.activities[event.event_id] = Activity(event.event_id, attributes, at, at)
    state.activity_ids[attributes.activity_id] = event.event_id
    touch(activity)


# -- starting -----------------------------------------------------------------------------------------------------
def start_activity(
    step: WorkflowStep, activity: Activity, identity: str, request_id: str, worker_version: WorkerVersionStamp | None = None
) -> None:
    """Hand an attempt to a worker; durable before the worker sees it."""
    step.note(notes.ActivityStarted(activity.scheduled_event_id, step.now, request_id, identity, worker_version))


@applies_note(notes.ActivityStarted)
def _started(state: WorkflowState, note: notes.ActivityStarted, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.started_at = note.at
    activity.request_id = note.request_id
    activity.identity = note.identity
    activity.worker_version = note.worker_version
    touch(activity)


# -- heartbeats ---------------------------------------------------------------------------------------------------
def heartbeat(step: WorkflowStep, activity: Activity, details: Payloads | None) -> None:
    """The worker is alive; its details survive to the next attempt."""
    step.put_side(_side_name(activity), _HEARTBEAT.encode(Heartbeat(step.now, details)))


def _side_name(activity: Activity) -> str:
    return f"heartbeat/{activity.scheduled_event_id}"


def apply_heartbeat(state: WorkflowState, name: str, data: bytes | None, touch: Touch) -> None:
    """Take over the side data of an activity."""
    activity = state.activities.get(int(name.rpartition("/")[2]))
    if activity is None:
        return
    beat = _HEARTBEAT.decode(data) if data is not None else Heartbeat(0, None)
    activity.heartbeat_at = beat.at
    activity.heartbeat_details = beat.details
    touch(activity)


# -- ending -------------------------------------------------------------------------------------------------------
def complete_activity(step: WorkflowStep, activity: Activity, result: Payloads | None, identity: str) -> None:
    started_event_id = _write_started(step, activity)
    step.event(
        ActivityTaskCompletedEventAttributes(
            result=result, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity
        )
    )
    _forget(step, activity)


def cancel_activity(step: WorkflowStep, activity: Activity, details: Payloads | None, identity: str) -> None:
    """The worker confirms the cancellation that was requested."""
    started_event_id = _write_started(step, activity) if activity.started_at else 0
    step.event(
        ActivityTaskCanceledEventAttributes(
            details=details, latest_cancel_requested_event_id=activity.cancel_requested_event_id,
            scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity,
        )
    )  # fmt: skip
    _forget(step, activity)


def fail_activity(step: WorkflowStep, activity: Activity, failure: Failure, identity: str) -> None:
    """An attempt failed: retry it if the policy and the time left allow, else the activity has failed."""
    retry_state = schedule_retry(step, activity, failure)
    if retry_state == RetryState.RETRY_STATE_IN_PROGRESS:
        return
    started_event_id = _write_started(step, activity)
    step.event(
        ActivityTaskFailedEventAttributes(
            failure=failure, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity,
            retry_state=retry_state,
        )
    )  # fmt: skip
    _forget(step, activity)


@decides(ActivityTimeout)
def time_out_activity(step: WorkflowStep, job: ActivityTimeout) -> None:
    activity = step.state.activities[job.scheduled_event_id]
    timeout_type = job.timeout_type
    failure = timeout_failure(activity, timeout_type)
    retry_state = RetryState.RETRY_STATE_TIMEOUT
    if timeout_type in (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT):
        retry_state = schedule_retry(step, activity, failure)
        if retry_state == RetryState.RETRY_STATE_IN_PROGRESS:
            return
    elif timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE and not activity.started_at and activity.attempt == 1:
        timeout_type = TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    if retry_state == RetryState.RETRY_STATE_TIMEOUT and timeout_type != TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START:
        timeout_type = TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    failure = timeout_failure(activity, timeout_type)
    if activity.last_failure is not None:
        failure.cause.CopyFrom(activity.last_failure)
    started_event_id = _write_started(step, activity) if activity.started_at else 0
    step.event(
        ActivityTaskTimedOutEventAttributes(
            failure=failure, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, retry_state=retry_state
        )
    )
    _forget(step, activity)


def timeout_failure(activity: Activity, timeout_type: int) -> Failure:
    """The failure that says which timeout struck."""
    messages = {
        TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "activity StartToClose timeout",
        TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "activity Heartbeat timeout",
        TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "activity ScheduleToStart timeout",
        TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE:
            "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying",
    }  # fmt: skip
    info = TimeoutFailureInfo(timeout_type=timeout_type, last_heartbeat_details=activity.heartbeat_details)  # pyright: ignore
    return Failure(message=messages[timeout_type], source="Server", timeout_failure_info=info)  # pyright: ignore


def schedule_retry(step: WorkflowStep, activity: Activity, failure: Failure) -> RetryState.ValueType:
    """Schedule the next attempt if there may be one (IN_PROGRESS); otherwise say why not."""
    policy = activity.attributes.retry_policy
    if activity.cancel_requested:
        return RetryState.RETRY_STATE_CANCEL_REQUESTED
    if policy.maximum_attempts == 1:
        return RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    if not is_retryable(failure, list(policy.non_retryable_error_types)):
        return RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    if 0 < policy.maximum_attempts <= activity.attempt:
        return RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    at = step.now + retry_delay(policy, activity.attempt, failure)
    to_close = duration_ns(activity.attributes.schedule_to_close_timeout)
    if to_close and at > activity.first_scheduled_at + to_close:
        return RetryState.RETRY_STATE_TIMEOUT
    step.note(notes.ActivityRetryScheduled(activity.scheduled_event_id, at, step.now, failure))
    return RetryState.RETRY_STATE_IN_PROGRESS


def retry_delay(policy: RetryPolicy, attempt: int, failure: Failure) -> int:
    """Nanoseconds until the attempt after this one; the failure itself may ask for another delay."""
    if failure.HasField("application_failure_info") and failure.application_failure_info.HasField("next_retry_delay"):
        return duration_ns(failure.application_failure_info.next_retry_delay)
    initial = duration_ns(policy.initial_interval)
    maximum = duration_ns(policy.maximum_interval) or DEFAULT_MAXIMUM_INTERVAL_COEFFICIENT * initial
    try:
        delay = initial * policy.backoff_coefficient ** (attempt - 1)
    except OverflowError:
        return maximum
    return int(min(delay, maximum))


def is_retryable(failure: Failure, non_retryable_types: list[str]) -> bool:
    """Whether a failure may be retried at all."""
    if failure.HasField("terminated_failure_info") or failure.HasField("canceled_failure_info"):
        return False
    if failure.HasField("timeout_failure_info"):
        info = failure.timeout_failure_info
        retryable = (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)
        if info.timeout_type not in retryable:
            return False
        return f"TemporalTimeout:{TimeoutType.Name(info.timeout_type).removeprefix('TIMEOUT_TYPE_')}" not in non_retryable_types
    if failure.HasField("server_failure_info"):
        return not failure.server_failure_info.non_retryable
    if failure.HasField("application_failure_info"):
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable_types
    return True


@applies_note(notes.ActivityRetryScheduled)
def _retry_scheduled(state: WorkflowState, note: notes.ActivityRetryScheduled, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.attempt += 1
    activity.stamp += 1
    activity.scheduled_at = note.at
    activity.started_at = 0
    activity.request_id = ""
    activity.last_failure = note.failure
    activity.last_attempt_complete_at = note.failed_at
    touch(activity)


def _write_started(step: WorkflowStep, activity: Activity) -> int:
    """Write the started event that was put off; its id is known once it is numbered, together with what follows it."""
    event = step.event(
        ActivityTaskStartedEventAttributes(
            scheduled_event_id=activity.scheduled_event_id, identity=activity.identity, request_id=activity.request_id, attempt=activity.attempt,
            last_failure=activity.last_failure, worker_version=activity.worker_version,
        ),
        at=activity.started_at or step.now,
    )  # fmt: skip
    return event.event_id


def _forget(step: WorkflowStep, activity: Activity) -> None:
    if activity.heartbeat_at or activity.heartbeat_details is not None:
        step.put_side(_side_name(activity), None)
    schedule_task(step)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
def _started_written(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Nothing: the note said so when it happened."""


def _ended(state: WorkflowState, scheduled_event_id: int) -> None:
    activity = state.activities.pop(scheduled_event_id, None)
    if activity is not None:
        state.activity_ids.pop(activity.activity_id, None)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
def _completed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    _ended(state, event.activity_task_completed_event_attributes.scheduled_event_id)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED)
def _failed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    _ended(state, event.activity_task_failed_event_attributes.scheduled_event_id)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT)
def _timed_out(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    _ended(state, event.activity_task_timed_out_event_attributes.scheduled_event_id)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED)
def _canceled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    _ended(state, event.activity_task_canceled_event_attributes.scheduled_event_id)


# -- canceling by command -----------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
def request_cancel_activity(step: WorkflowStep, command: Command, completion: Completion) -> None:
    scheduled_event_id = command.request_cancel_activity_task_command_attributes.scheduled_event_id
    if scheduled_event_id >= completion.completed_event_id and scheduled_event_id not in step.state.activities:
        cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES
        raise CommandRefused(cause, f"invalid history builder state for action: add-activitytask-cancel-requested-event, ScheduledEventID: {scheduled_event_id}")
    step.event(
        ActivityTaskCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id, workflow_task_completed_event_id=completion.completed_event_id
        )
    )
    activity = step.state.activities.get(scheduled_event_id)
    if activity is not None and not activity.started_at:
        details = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')])
        cancel_activity(step, activity, details, completion.request.identity)


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
def _cancel_requested(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    activity = state.activities.get(event.activity_task_cancel_requested_event_attributes.scheduled_event_id)
    if activity is not None:
        activity.cancel_requested = True
        activity.cancel_requested_event_id = event.event_id
        touch(activity)
