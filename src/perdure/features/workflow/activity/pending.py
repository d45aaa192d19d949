"""How a pending activity is shown to people: ``PendingActivityInfo`` of DescribeWorkflowExecution."""

from __future__ import annotations

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import PendingActivityInfo

from perdure.core.clock import duration_ns, to_duration, to_timestamp
from perdure.features.workflow.activity.state import Activity

S = PendingActivityState


def pending_activity_info(activity: Activity, now: int) -> PendingActivityInfo:
    """Where an activity stands at `now` (nanoseconds since the epoch)."""
    info = PendingActivityInfo(
        activity_id=activity.activity_id, activity_type=activity.attributes.activity_type, state=_state(activity), attempt=activity.attempt,
        maximum_attempts=activity.settings.retry_policy.maximum_attempts, scheduled_time=to_timestamp(activity.scheduled_at),
        last_worker_identity=activity.worker_identity, last_failure=activity.last_failure, priority=activity.priority,
        paused=activity.pause is not None, activity_options=_options(activity),
    )  # fmt: skip
    if activity.started_at:
        info.last_started_time.CopyFrom(to_timestamp(activity.started_at))
    if activity.expires_at and duration_ns(activity.attributes.schedule_to_close_timeout):
        # The official server does not show a bound that an activity got only after it was scheduled.
        info.expiration_time.CopyFrom(to_timestamp(activity.expires_at))
    if activity.heartbeat_at:
        info.last_heartbeat_time.CopyFrom(to_timestamp(activity.heartbeat_at))
        if activity.heartbeat_details is not None:
            info.heartbeat_details.CopyFrom(activity.heartbeat_details)
    if activity.last_attempt_complete_at:
        info.last_attempt_complete_time.CopyFrom(to_timestamp(activity.last_attempt_complete_at))
    if not activity.started_at and activity.pause is None and now < activity.scheduled_at:
        info.next_attempt_schedule_time.CopyFrom(to_timestamp(activity.scheduled_at))
        info.current_retry_interval.CopyFrom(to_duration(activity.scheduled_at - (activity.last_attempt_complete_at or now)))
    if activity.pause is not None:
        info.pause_info.pause_time.CopyFrom(to_timestamp(activity.pause.at))
        info.pause_info.manual.identity = activity.pause.identity
        info.pause_info.manual.reason = activity.pause.reason
    return info


def _state(activity: Activity) -> PendingActivityState.ValueType:
    if activity.cancel_requested:
        return S.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.started_at:
        return S.PENDING_ACTIVITY_STATE_STARTED if activity.pause is None else S.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
    return S.PENDING_ACTIVITY_STATE_SCHEDULED if activity.pause is None else S.PENDING_ACTIVITY_STATE_PAUSED


def _options(activity: Activity) -> ActivityOptions:
    settings = activity.settings
    policy = settings.retry_policy
    name = settings.task_queue.name
    return ActivityOptions(
        task_queue=TaskQueue(name=name, normal_name=name), schedule_to_close_timeout=settings.schedule_to_close_timeout,
        schedule_to_start_timeout=settings.schedule_to_start_timeout, start_to_close_timeout=settings.start_to_close_timeout,
        heartbeat_timeout=settings.heartbeat_timeout, priority=activity.priority,
        retry_policy=RetryPolicy(
            initial_interval=policy.initial_interval, backoff_coefficient=policy.backoff_coefficient,
            maximum_interval=policy.maximum_interval, maximum_attempts=policy.maximum_attempts,
        ),
    )  # fmt: skip
