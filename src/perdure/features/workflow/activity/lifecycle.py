"""Activities of a workflow run: scheduled by command, attempted by workers, retried by policy, timed out by the clock.

| from               | intent                 | to                 | record                                                          |
|--------------------|------------------------|--------------------|-----------------------------------------------------------------|
| –                  | schedule               | SCHEDULED          | ACTIVITY_TASK_SCHEDULED                                         |
| SCHEDULED          | start                  | STARTED            | note (the started event is written when the activity ends)      |
| STARTED            | heartbeat              | STARTED            | side data, overwritten                                          |
| STARTED            | complete               | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_COMPLETED                  |
| SCHEDULED          | complete (by id)       | –                  | note, ACTIVITY_TASK_STARTED, ACTIVITY_TASK_COMPLETED            |
| STARTED            | fail, time out, retry  | SCHEDULED (later)  | note                                                            |
| STARTED            | fail, time out         | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_FAILED or …_TIMED_OUT      |
| STARTED            | cancel, confirmed      | –                  | ACTIVITY_TASK_STARTED, ACTIVITY_TASK_CANCELED                   |
| SCHEDULED          | time out               | –                  | ACTIVITY_TASK_TIMED_OUT                                         |
| SCHEDULED          | request cancel         | –                  | ACTIVITY_TASK_CANCEL_REQUESTED, ACTIVITY_TASK_CANCELED          |
| STARTED            | request cancel         | STARTED            | ACTIVITY_TASK_CANCEL_REQUESTED; told by heartbeat               |
| STARTED            | request cancel again   | STARTED            | refused                                                         |

What an operator does to a pending activity is in ``control.py``, commands in ``commands.py``, retries in ``retry.py``.
"""

from __future__ import annotations

import msgspec
from temporalio.api.common.v1 import Payloads, WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
    ActivityTaskStartedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
    HistoryEvent,
)

from perdure.core.codec import Codec
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow import notes
from perdure.features.workflow.activity.metrics import CANCELED, COMPLETED, FAILED, TIMED_OUT, count_end
from perdure.features.workflow.activity.retry import drop_heartbeat, heartbeat_name, schedule_retry
from perdure.features.workflow.activity.state import Activity, count_bytes
from perdure.features.workflow.failures import NO_TIME_TO_RETRY, activity_timeout
from perdure.features.workflow.jobs import ActivityTimeout, HeartbeatTimeout
from perdure.features.workflow.registry import applies, applies_note
from perdure.features.workflow.run.pause_info import forget_paused
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task


class Heartbeat(msgspec.Struct, array_like=True):
    """Side data of an activity: when its worker last reported, what, and under which name if it had taken the attempt without one."""

    at: int
    details: Payloads | None
    identity: str = ""


_HEARTBEAT: Codec[Heartbeat] = Codec(Heartbeat)


# -- starting -----------------------------------------------------------------------------------------------------
def start_activity(step: WorkflowStep, activity: Activity, identity: str, request_id: str) -> None:
    """Hand an attempt to a worker; durable before the worker sees it."""
    step.note(notes.ActivityStarted(activity.scheduled_event_id, step.now, request_id, identity))


@applies_note(notes.ActivityStarted)
def _started(state: WorkflowState, note: notes.ActivityStarted, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.started_at = note.at
    activity.started_stamp = activity.stamp
    activity.request_id = note.request_id
    activity.identity = note.identity
    touch(activity)


def take_back(step: WorkflowStep, activity: Activity) -> None:
    """An attempt was handed out and never left the server: it has not begun after all."""
    step.note(notes.ActivityTakenBack(activity.scheduled_event_id))


@applies_note(notes.ActivityTakenBack)
def _taken_back(state: WorkflowState, note: notes.ActivityTakenBack, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.started_at = 0
    activity.request_id = ""
    activity.stamp += 1
    touch(activity)


# -- heartbeats ---------------------------------------------------------------------------------------------------
def heartbeat(step: WorkflowStep, activity: Activity, details: Payloads | None, identity: str) -> None:
    """The worker is alive; its details survive to the next attempt. None erases those of earlier heartbeats.

    identity: of the worker; kept when it took the attempt without saying who it is, "" leaves what is known.
    A clock that was set back does not bring the timeout nearer: the header may lead to the later time already.
    """
    name = "" if activity.identity else identity or activity.worker_identity
    step.put_side(heartbeat_name(activity), _HEARTBEAT.encode(Heartbeat(max(step.now, activity.heartbeat_at), details, name)))


def apply_heartbeat(state: WorkflowState, name: str, data: bytes | None, touch: Touch) -> None:
    """Take over the side data of an activity. It is touched only if the clock was set back since the last heartbeat: otherwise its timeouts
    have moved away, and ask again when they come up."""
    activity = state.activities.get(int(name.rpartition("/")[2]))
    if activity is None:
        return
    beat = _HEARTBEAT.decode(data) if data is not None else Heartbeat(0, None)
    if beat.at < activity.heartbeat_at:
        touch(activity)
    activity.heartbeat_at = beat.at
    activity.heartbeat_details = beat.details
    activity.heartbeat_identity = beat.identity
    count_bytes(state, activity)


def clear_heartbeats(state: WorkflowState) -> None:
    """Forget the side data of all activities."""
    for activity in state.activities.values():
        activity.heartbeat_at = 0
        activity.heartbeat_details = None
        activity.heartbeat_identity = ""
        count_bytes(state, activity)


# -- ending -------------------------------------------------------------------------------------------------------
def complete_activity(
    step: WorkflowStep, activity: Activity, result: Payloads | None, identity: str, worker_version: WorkerVersionStamp | None = None
) -> None:
    """It has a result. One that no worker has (its owner completes it by id) is started by the one who completes it."""
    if not activity.started_at:
        start_activity(step, activity, identity, "")
    count_end(step, activity, COMPLETED, activity.started_at, closed=True)
    started_event_id = _write_started(step, activity, worker_version)
    step.event(
        ActivityTaskCompletedEventAttributes(
            result=result, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity
        )
    )
    drop_heartbeat(step, activity)
    schedule_task(step)


def cancel_activity(step: WorkflowStep, activity: Activity, details: Payloads | None, identity: str) -> None:
    """The cancellation that was requested has happened. The workflow task that tells the workflow is the caller's."""
    count_end(step, activity, CANCELED, activity.started_at, closed=True)
    started_event_id = _write_started(step, activity) if activity.started_at else 0
    step.event(
        ActivityTaskCanceledEventAttributes(
            details=details, latest_cancel_requested_event_id=activity.cancel_requested_event_id,
            scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity,
        )
    )  # fmt: skip
    drop_heartbeat(step, activity)


def fail_activity(
    step: WorkflowStep, activity: Activity, failure: Failure | None, identity: str, worker_version: WorkerVersionStamp | None = None
) -> None:
    """An attempt failed: retry it if the policy and the time left allow, else the activity has failed."""
    started_at = activity.started_at
    retry_state = schedule_retry(step, activity, failure, step.now)
    closed = retry_state != RetryState.RETRY_STATE_IN_PROGRESS
    count_end(step, activity, FAILED, started_at, closed=closed)
    if not closed:
        return
    started_event_id = _write_started(step, activity, worker_version)
    step.event(
        ActivityTaskFailedEventAttributes(
            failure=failure, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, identity=identity,
            retry_state=retry_state,
        )
    )  # fmt: skip
    drop_heartbeat(step, activity)
    schedule_task(step)


_PRECEDENCE = (
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START,
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,  # before start-to-close: an attempt starts after the scheduling, be it within one step
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT,
)
"""Which of two timeouts counts that strike at the same time."""


@decides(ActivityTimeout)
def activity_timed_out(step: WorkflowStep, job: ActivityTimeout) -> None:
    time_out_activity(step, step.state.activities[job.scheduled_event_id])


@decides(HeartbeatTimeout)
def heartbeat_missed(step: WorkflowStep, job: HeartbeatTimeout) -> None:
    time_out_activity(step, step.state.activities[job.scheduled_event_id])


def time_out_activity(step: WorkflowStep, activity: Activity) -> None:
    """A timeout struck: retry if that is still possible, else the activity has timed out."""
    _, timeout_type = min(activity.timeouts(), key=lambda timeout: (timeout[0], _PRECEDENCE.index(timeout[1])))
    failure = activity_timeout(timeout_type)
    retry_state = schedule_retry(step, activity, failure, activity.last_attempt_complete_at)
    closed = retry_state != RetryState.RETRY_STATE_IN_PROGRESS
    count_end(step, activity, TIMED_OUT, 0, closed=closed, timeout_type=timeout_type)
    if not closed:
        return
    if retry_state == RetryState.RETRY_STATE_TIMEOUT and timeout_type != TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START:
        # What the attempt died of is not the point: the activity as a whole has no time left.
        failure = activity_timeout(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, NO_TIME_TO_RETRY)
    if activity.heartbeat_details is not None:
        failure.timeout_failure_info.last_heartbeat_details.CopyFrom(activity.heartbeat_details)
    if activity.last_failure is not None:
        failure.cause.CopyFrom(activity.last_failure)
    started_event_id = _write_started(step, activity) if activity.started_at else 0
    step.event(
        ActivityTaskTimedOutEventAttributes(
            failure=failure, scheduled_event_id=activity.scheduled_event_id, started_event_id=started_event_id, retry_state=retry_state
        )
    )
    drop_heartbeat(step, activity)
    schedule_task(step)


def _write_started(step: WorkflowStep, activity: Activity, worker_version: WorkerVersionStamp | None = None) -> int:
    """Write the started event that was put off; its id is known once it is numbered, together with what follows it.

    worker_version: as the worker itself says with its answer; an attempt that ends without an answer shows none.
    """
    event = step.event(
        ActivityTaskStartedEventAttributes(
            scheduled_event_id=activity.scheduled_event_id, identity=activity.identity, request_id=activity.request_id,
            attempt=activity.attempt, last_failure=activity.last_failure, worker_version=worker_version,
        ),
        at=activity.started_at,
    )  # fmt: skip
    return event.event_id


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
def _started_written(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    """Nothing: the note said so when it happened."""


def _ended(state: WorkflowState, scheduled_event_id: int) -> None:
    activity = state.activities.pop(scheduled_event_id, None)
    if activity is not None:
        state.activity_ids.pop(activity.activity_id, None)
        state.pending_bytes -= activity.attributes.ByteSize()
        state.activity_bytes -= activity.counted_bytes
        forget_paused(state, activity)


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
