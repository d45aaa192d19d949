"""Whether and when an activity is tried again."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure

from perdure.core.clock import duration_ns
from perdure.core.execution import Touch
from perdure.core.limits import LONGEST_DURATION
from perdure.features.workflow import notes
from perdure.features.workflow.activity.state import Activity, count_bytes
from perdure.features.workflow.failures import FAILURE_TOO_LARGE, server_failure, truncate
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import TIMEOUT_TYPE_NAMES, TIMEOUT_TYPE_PREFIX

RETRIED_TIMEOUTS = (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)


def schedule_retry(step: WorkflowStep, activity: Activity, failure: Failure | None, completed_at: int) -> RetryState.ValueType:
    """Schedule the next attempt if there may be one (IN_PROGRESS); otherwise say why not.

    completed_at: when a worker last said that an attempt is over, nanoseconds since the epoch, 0 for never: a timeout does not count.
    """
    state = may_retry(activity, failure)
    if state != RetryState.RETRY_STATE_IN_PROGRESS:
        return state
    if activity.pause is not None:
        # The attempts are not counted against the policy: whoever unpauses it wants another one.
        at = activity.scheduled_at
    else:
        delay, state = next_delay(step.now, activity.retry_policy, activity.attempt, activity.expires_at, failure)
        if state != RetryState.RETRY_STATE_IN_PROGRESS:
            return state
        at = step.now + delay
    if activity.reset_heartbeat:
        drop_heartbeat(step, activity)
    step.note(notes.ActivityRetryScheduled(activity.scheduled_event_id, at, completed_at, bounded(step, failure)))
    return state


def may_retry(activity: Activity, failure: Failure | None) -> RetryState.ValueType:
    """Whether a failure of this kind is retried at all, however many attempts and whatever time are left."""
    if activity.cancel_requested:
        return RetryState.RETRY_STATE_CANCEL_REQUESTED
    if failure is None:
        return RetryState.RETRY_STATE_IN_PROGRESS
    if failure.HasField("timeout_failure_info") and failure.timeout_failure_info.timeout_type not in RETRIED_TIMEOUTS:
        return RetryState.RETRY_STATE_TIMEOUT
    if not is_retryable(failure, activity.attributes.retry_policy.non_retryable_error_types):
        return RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    return RetryState.RETRY_STATE_IN_PROGRESS


def is_retryable(failure: Failure, non_retryable_types: Sequence[str]) -> bool:
    """Whether the failure itself, and the policy's list of error types, permit a retry."""
    if failure.HasField("terminated_failure_info") or failure.HasField("canceled_failure_info"):
        return False
    if failure.HasField("timeout_failure_info"):
        timeout_type = failure.timeout_failure_info.timeout_type
        return timeout_type in RETRIED_TIMEOUTS and TIMEOUT_TYPE_PREFIX + TIMEOUT_TYPE_NAMES[timeout_type] not in non_retryable_types
    if failure.HasField("server_failure_info"):
        return not failure.server_failure_info.non_retryable
    if failure.HasField("application_failure_info"):
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable_types
    return True


def next_delay(now: int, policy: RetryPolicy, attempt: int, expires_at: int, failure: Failure | None) -> tuple[int, RetryState.ValueType]:
    """Nanoseconds from `now` until the attempt after this one may start, with IN_PROGRESS; or 0 and why there is none.

    attempt: that has ended, the first is 1. expires_at: no attempt starts later, 0 for no bound.
    """
    if 0 < policy.maximum_attempts <= attempt:
        return 0, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    delay = requested_delay(failure)
    if delay is None:
        delay = backoff(policy, attempt)
        maximum = duration_ns(policy.maximum_interval)
        if maximum and not 0 < delay <= maximum:
            delay = maximum
    if delay == 0 or (expires_at and now + delay > expires_at):
        return 0, RetryState.RETRY_STATE_TIMEOUT
    return delay, RetryState.RETRY_STATE_IN_PROGRESS


def requested_delay(failure: Failure | None) -> int | None:
    """Nanoseconds that the failure asks to wait, whatever the policy says; None when it does not."""
    if failure is None or not failure.HasField("application_failure_info"):
        return None
    info = failure.application_failure_info
    if not info.HasField("next_retry_delay"):
        return None
    return max(-LONGEST_DURATION, min(duration_ns(info.next_retry_delay), LONGEST_DURATION))


def backoff(policy: RetryPolicy, attempt: int) -> int:
    """Nanoseconds between an attempt and the next by the policy, before its maximum interval; 0 when that says nothing.

    A policy with one attempt is not looked at when it is given, and an operator may ask for another one all the same.
    """
    try:
        delay = int(duration_ns(policy.initial_interval) * policy.backoff_coefficient ** (attempt - 1))
    except OverflowError:
        return LONGEST_DURATION
    except ValueError:  # not a number
        return 0
    return max(0, min(delay, LONGEST_DURATION))


def bounded(step: WorkflowStep, failure: Failure | None) -> Failure | None:
    """The failure as it is kept with the pending activity; a big one is cut, because it is loaded with every step of the run."""
    limit = step.limits.activity_failure_size_error_bytes
    if failure is None or failure.ByteSize() <= limit:
        return failure
    return server_failure(FAILURE_TOO_LARGE, non_retryable=False, cause=truncate(failure, limit))


@applies_note(notes.ActivityRetryScheduled)
def _retry_scheduled(state: WorkflowState, note: notes.ActivityRetryScheduled, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.attempt += 1
    activity.last_failure = note.failure
    activity.last_attempt_complete_at = note.completed_at
    await_attempt(activity, note.at)
    count_bytes(state, activity)
    touch(activity)


def await_attempt(activity: Activity, at: int) -> None:
    """No attempt runs; the next may start at `at`. What an operator asked the running one to do is done."""
    activity.stamp += 1
    activity.scheduled_at = at
    activity.started_at = activity.started_stamp = 0
    activity.request_id = ""
    activity.reset_requested = False
    if activity.reset_heartbeat:
        activity.reset_heartbeat = False
        activity.heartbeat_at = 0
        activity.heartbeat_details = None
        activity.heartbeat_identity = ""


def heartbeat_name(activity: Activity) -> str:
    """The name of an activity's heartbeat among the side data of its run."""
    return f"heartbeat/{activity.scheduled_event_id}"


def drop_heartbeat(step: WorkflowStep, activity: Activity) -> None:
    """Forget what the activity has reported by heartbeat."""
    if activity.heartbeat_at:
        step.put_side(heartbeat_name(activity), None)
