"""What a workflow run remembers of a pending activity.

Times are nanoseconds since the epoch, 0 where not set; timeouts are nanoseconds, 0 for none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Payloads, Priority, RetryPolicy
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import ActivityTaskScheduledEventAttributes

from perdure.core.clock import duration_ns
from perdure.core.jobs import Job
from perdure.features.workflow.jobs import ActivityTimeout, DispatchActivityTask, HeartbeatTimeout

if TYPE_CHECKING:
    from perdure.features.workflow.state import WorkflowState


class ActivityPause(msgspec.Struct, frozen=True):
    """Who paused an activity, when and why. request_id: pausing again with the same one changes nothing."""

    at: int
    identity: str
    reason: str
    request_id: str


class Activity(msgspec.Struct):
    """A pending activity.

    attributes: as it was scheduled. options: what an operator made of them since; None when nothing was changed.
    stamp: grows with everything that makes an earlier dispatch stale. started_stamp: the stamp under which the present attempt was handed
    out; a worker's token carries it. scheduled_at: when the present attempt may start. first_scheduled_at: when the activity was scheduled.
    identity: of the worker that took the latest attempt. last_failure, last_attempt_complete_at: of the latest attempt that failed.
    exempt: an operator let it go on though its run is on hold. reset_requested: an operator reset it while an attempt ran;
    reset_heartbeat: the next attempt begins without heartbeat details.
    heartbeat_at, heartbeat_details, heartbeat_identity: beside the journal, overwritten; see ``lifecycle.Heartbeat``.
    attributes_bytes, counted_bytes: see :func:`count_bytes`.
    """

    scheduled_event_id: int
    attributes: ActivityTaskScheduledEventAttributes
    first_scheduled_at: int
    scheduled_at: int
    attempt: int = 1
    stamp: int = 1
    started_stamp: int = 0
    started_at: int = 0
    request_id: str = ""
    identity: str = ""
    cancel_requested: bool = False
    cancel_requested_event_id: int = 0
    last_failure: Failure | None = None
    last_attempt_complete_at: int = 0
    options: ActivityOptions | None = None
    pause: ActivityPause | None = None
    exempt: bool = False
    reset_requested: bool = False
    reset_heartbeat: bool = False
    heartbeat_at: int = 0
    heartbeat_details: Payloads | None = None
    heartbeat_identity: str = ""
    attributes_bytes: int = 0
    counted_bytes: int = 0

    @property
    def activity_id(self) -> str:
        return self.attributes.activity_id

    @property
    def worker_identity(self) -> str:
        """Who took the latest attempt; if that was nobody with a name, who sends the heartbeats of the running one."""
        reports = self.started_at and self.heartbeat_at >= self.started_at
        return self.identity or (self.heartbeat_identity if reports else "")

    @property
    def settings(self) -> ActivityOptions | ActivityTaskScheduledEventAttributes:
        """Task queue, timeouts, retry policy and priority as they are in force."""
        return self.options or self.attributes

    @property
    def retry_policy(self) -> RetryPolicy:
        """The policy in force; the types of errors that are not retried cannot be changed after scheduling."""
        policy = RetryPolicy()
        policy.CopyFrom(self.settings.retry_policy)
        policy.ClearField("non_retryable_error_types")
        policy.non_retryable_error_types.extend(self.attributes.retry_policy.non_retryable_error_types)
        return policy

    @property
    def priority(self) -> Priority | None:
        """Its own priority, None when it was given none; what it lacks comes from the workflow."""
        settings = self.settings
        return settings.priority if settings.HasField("priority") else None

    @property
    def expires_at(self) -> int:
        """No attempt is scheduled beyond this time; 0 for no bound."""
        timeout = duration_ns(self.settings.schedule_to_close_timeout)
        return self.first_scheduled_at + timeout if timeout else 0

    def timeouts(self) -> list[tuple[int, int]]:
        """The timeouts that run: (when it strikes, TimeoutType). None while paused."""
        if self.pause is not None:
            return []
        settings = self.settings
        timeouts: list[tuple[int, int]] = []
        if timeout := duration_ns(settings.schedule_to_close_timeout):
            timeouts.append((self.first_scheduled_at + timeout, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE))
        if self.started_at:
            if timeout := duration_ns(settings.start_to_close_timeout):
                timeouts.append((self.started_at + timeout, TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE))
            if timeout := duration_ns(settings.heartbeat_timeout):
                timeouts.append((max(self.started_at, self.heartbeat_at) + timeout, TimeoutType.TIMEOUT_TYPE_HEARTBEAT))
        elif timeout := duration_ns(settings.schedule_to_start_timeout):
            timeouts.append((self.scheduled_at + timeout, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START))
        return timeouts

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if not state.is_open:
            return
        if not self.started_at and self.pause is None and (self.exempt or not state.is_paused):
            # 0 is "at once": a first attempt does not wait for the clock to reach its own scheduling time.
            due = self.scheduled_at if self.scheduled_at > self.first_scheduled_at else 0
            yield DispatchActivityTask(due, self.scheduled_event_id, self.stamp)
        fixed: list[tuple[int, int]] = []
        for at, timeout_type in self.timeouts():
            if timeout_type == TimeoutType.TIMEOUT_TYPE_HEARTBEAT:
                yield HeartbeatTimeout(at, self.scheduled_event_id, self.started_at, duration_ns(self.settings.heartbeat_timeout))
            else:
                fixed.append((at, timeout_type))
        if fixed:
            yield ActivityTimeout(min(fixed)[0], self.scheduled_event_id, self.stamp)


def count_bytes(state: WorkflowState, activity: Activity) -> None:
    """Note what a pending activity adds to the size of the run's state, after its failure or its heartbeat has changed."""
    failure, details = activity.last_failure, activity.heartbeat_details
    size = activity.attributes_bytes
    size += (failure.ByteSize() if failure is not None else 0) + (details.ByteSize() if details is not None else 0)
    state.activity_bytes += size - activity.counted_bytes
    activity.counted_bytes = size
