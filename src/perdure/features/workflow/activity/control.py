"""What an operator does to a pending activity: pause, unpause, reset, change its options.

| from                 | intent              | to                                  | record                                           |
|----------------------|---------------------|-------------------------------------|--------------------------------------------------|
| SCHEDULED            | pause               | PAUSED: not dispatched, no timeouts | note                                             |
| STARTED              | pause               | PAUSE_REQUESTED; told by heartbeat  | note                                             |
| PAUSE_REQUESTED      | fail                | PAUSED, attempt + 1                 | note (no retry policy is asked)                  |
| PAUSED               | unpause             | SCHEDULED, now                      | notes                                            |
| PAUSE_REQUESTED      | unpause             | STARTED                             | note                                             |
| SCHEDULED, PAUSED    | reset               | SCHEDULED, now, attempt 1           | notes                                            |
| PAUSED               | reset, keep paused  | PAUSED, attempt 1                   | note                                             |
| STARTED              | reset               | STARTED, attempt 1                  | note; told by heartbeat                          |
| SCHEDULED, PAUSED    | change options      | scheduled anew by the new options   | notes                                            |
| STARTED              | change options      | STARTED, timeouts by the new ones   | note                                             |

While the pause lasts no timeout strikes, not even those of a running attempt. An operator who unpauses or resets an activity of a run that
is on hold means just this one: its attempts are handed out, whatever becomes of the run.
"""

from __future__ import annotations

from temporalio.api.activity.v1 import ActivityOptions

from perdure.core.clock import duration_ns
from perdure.core.errors import failed_precondition
from perdure.core.execution import Touch
from perdure.core.limits import LONGEST_DURATION
from perdure.features.workflow import notes
from perdure.features.workflow.activity.lifecycle import heartbeat
from perdure.features.workflow.activity.metrics import count_pause
from perdure.features.workflow.activity.retry import await_attempt, backoff, drop_heartbeat
from perdure.features.workflow.activity.state import Activity, ActivityPause, count_bytes
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.run.pause_info import pause_or_free
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep


def pause_activity(step: WorkflowStep, activity: Activity, identity: str, reason: str, request_id: str) -> None:
    """Hand out no attempt until it is unpaused. Raises ApiError FAILED_PRECONDITION when another request has paused it."""
    if activity.pause is not None:
        if activity.pause.request_id == request_id:
            return
        raise failed_precondition("activity is already paused")
    step.note(notes.ActivityPaused(activity.scheduled_event_id, step.now, identity, reason, request_id))
    count_pause(step, activity)


def unpause_activity(step: WorkflowStep, activity: Activity, *, reset_attempts: bool, reset_heartbeat: bool, jitter: int) -> None:
    """Go on with an activity; does nothing to one that is not paused.

    reset_attempts: count from 1 again. reset_heartbeat: forget the heartbeat details. jitter: start within so many nanoseconds.
    """
    if activity.pause is None:
        return
    if reset_heartbeat:
        _forget_details(step, activity)
    step.note(notes.ActivityUnpaused(activity.scheduled_event_id, reset_attempts))
    if not activity.started_at:
        _reschedule(step, activity, _soon(step, jitter))


def reset_activity(
    step: WorkflowStep, activity: Activity, *, reset_heartbeat: bool, keep_paused: bool, restore_options: bool, jitter: int
) -> None:
    """Begin again with attempt 1, at once when no attempt runs.

    reset_heartbeat: the next attempt has no heartbeat details. keep_paused: a paused one stays so. restore_options: as it was scheduled.
    jitter: start within so many nanoseconds.
    """
    step.note(notes.ActivityReset(activity.scheduled_event_id, reset_heartbeat, keep_paused, restore_options))
    if not activity.started_at and activity.pause is None:
        _reschedule(step, activity, _soon(step, jitter))


def update_options(step: WorkflowStep, activity: Activity, options: ActivityOptions | None) -> None:
    """Go on with other options. None restores those it was scheduled with."""
    step.note(notes.ActivityOptionsUpdated(activity.scheduled_event_id, options))
    if not activity.started_at:
        _reschedule(step, activity, _next_attempt_at(activity))


def _next_attempt_at(activity: Activity) -> int:
    """When the waiting attempt may start by the options in force."""
    if activity.attempt == 1 or not activity.last_attempt_complete_at:
        return activity.scheduled_at
    policy = activity.settings.retry_policy
    delay = backoff(policy, activity.attempt - 1)
    maximum = duration_ns(policy.maximum_interval)
    return activity.last_attempt_complete_at + (min(delay, maximum) if maximum else delay)


def _reschedule(step: WorkflowStep, activity: Activity, at: int) -> None:
    if activity.reset_heartbeat:
        drop_heartbeat(step, activity)
    step.note(notes.ActivityRescheduled(activity.scheduled_event_id, at))


def _soon(step: WorkflowStep, jitter: int) -> int:
    return step.now + (step.ids.random.randrange(min(jitter, LONGEST_DURATION)) if jitter > 0 else 0)


def _forget_details(step: WorkflowStep, activity: Activity) -> None:
    if activity.started_at and activity.heartbeat_at:
        # The running attempt must not time out for the heartbeat that is taken from it.
        heartbeat(step, activity, None, "")
    else:
        drop_heartbeat(step, activity)


@applies_note(notes.ActivityPaused)
def _paused(state: WorkflowState, note: notes.ActivityPaused, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    pause_or_free(state, activity, ActivityPause(note.at, note.identity, note.reason, note.request_id))
    if not activity.started_at:
        activity.stamp += 1
    touch(activity)


@applies_note(notes.ActivityUnpaused)
def _unpaused(state: WorkflowState, note: notes.ActivityUnpaused, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    pause_or_free(state, activity, None)
    activity.exempt = state.is_paused
    if note.reset_attempts:
        activity.attempt = 1
    touch(activity)


@applies_note(notes.ActivityReset)
def _reset(state: WorkflowState, note: notes.ActivityReset, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.attempt = 1
    activity.reset_requested = True
    activity.reset_heartbeat = activity.reset_heartbeat or note.reset_heartbeat
    if note.restore_options:
        activity.options = None
    if not note.keep_paused:
        pause_or_free(state, activity, None)
    activity.exempt = state.is_paused and activity.pause is None
    touch(activity)


@applies_note(notes.ActivityOptionsUpdated)
def _options_updated(state: WorkflowState, note: notes.ActivityOptionsUpdated, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.options = note.options
    touch(activity)


@applies_note(notes.ActivityRescheduled)
def _rescheduled(state: WorkflowState, note: notes.ActivityRescheduled, touch: Touch) -> None:
    activity = state.activities[note.scheduled_event_id]
    activity.last_failure = None
    await_attempt(activity, note.at)
    count_bytes(state, activity)
    touch(activity)
