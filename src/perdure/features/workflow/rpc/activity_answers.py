"""What workers answer about an activity, whether they address it by token or by id: sizes are checked, then the activity takes the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from temporalio.api.common.v1 import Payloads, WorkerVersionStamp
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import RecordActivityTaskHeartbeatResponse

from perdure.core.clock import SECOND
from perdure.core.errors import invalid_argument, not_found
from perdure.engine.transaction import Transaction
from perdure.features.workflow import failures
from perdure.features.workflow.activity import lifecycle as activities
from perdure.features.workflow.activity.metrics import count_heartbeat
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task
from perdure.features.workflow.tokens import TaskToken

GONE = "invalid activityID or activity already timed out or invoking workflow is completed"
LONGEST_DELAY = 315_576_000_000 * SECOND
"""Ten thousand years: what protobuf allows a duration to be."""

Change = Callable[[WorkflowStep, Activity], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The activity that an answer is about.

    find: the activity in the state of an open run; raises ApiError NOT_FOUND. may_complete_unstarted: also when no worker has it.
    """

    namespace_id: str
    workflow_id: str
    run_id: str
    find: Callable[[WorkflowState], Activity]
    may_complete_unstarted: bool = False


def by_token(token: TaskToken) -> Target:
    """The attempt that the token was given out for, and no other."""

    def find(state: WorkflowState) -> Activity:
        activity = state.activities.get(token.scheduled_event_id)
        if activity is None or (activity.attempt, activity.started_stamp) != (token.attempt, token.stamp):
            raise not_found(GONE)
        return activity

    return Target(token.namespace_id, token.workflow_id, token.run_id, find)


def by_id(namespace_id: str, workflow_id: str, run_id: str, activity_id: str) -> Target:
    """The pending activity of that id, whichever attempt runs. It can be completed although no worker has it."""
    if not activity_id:
        raise invalid_argument("ActivityId is not set on request.")
    if not workflow_id:
        # Without a workflow it is an activity of its own.
        raise not_found(f"activity not found for ID: {activity_id}")

    def find(state: WorkflowState) -> Activity:
        scheduled_event_id = state.activity_ids.get(activity_id)
        if scheduled_event_id is None:
            hint = "check workflow execution history for more details"
            raise not_found(f"cannot find pending activity with ActivityID {activity_id}, {hint}")
        return state.activities[scheduled_event_id]

    return Target(namespace_id, workflow_id, run_id, find, may_complete_unstarted=True)


class ActivityAnswers:
    """Applies workers' answers. Every method returns once the outcome is durable, and raises ApiError."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    async def heartbeat(self, target: Target, details: Payloads | None, identity: str) -> RecordActivityTaskHeartbeatResponse:
        if self._is_too_large(details):
            await self._fail(target, failures.HEARTBEAT_TOO_LARGE, identity)
            return RecordActivityTaskHeartbeatResponse(cancel_requested=True)
        response = RecordActivityTaskHeartbeatResponse()

        def change(step: WorkflowStep, activity: Activity) -> None:
            response.cancel_requested = activity.cancel_requested
            response.activity_paused = activity.pause is not None
            response.activity_reset = activity.reset_requested
            activities.heartbeat(step, activity, details, identity)
            count_heartbeat(step, details)

        await self._change(target, change)
        return response

    async def complete(
        self, target: Target, result: Payloads | None, identity: str, worker_version: WorkerVersionStamp | None = None
    ) -> None:
        self.check_identity(identity)
        if self._is_too_large(result):
            await self._fail(target, failures.RESULT_TOO_LARGE, identity)
            return

        def change(step: WorkflowStep, activity: Activity) -> None:
            activities.complete_activity(step, activity, result, identity, worker_version)

        await self._change(target, change, may_be_unstarted=target.may_complete_unstarted)

    async def fail(
        self, target: Target, failure: Failure | None, details: Payloads | None, identity: str,
        worker_version: WorkerVersionStamp | None = None,
    ) -> list[Failure]:  # fmt: skip
        """details: of a last heartbeat. Returns what was wrong with the answer itself."""
        self.check_identity(identity)
        check_retry_delays(failure)
        problems: list[Failure] = []
        if self._is_too_large(details):
            problems.append(failures.server_failure(failures.HEARTBEAT_TOO_LARGE, non_retryable=True))
            details = None
        limits = self._services.limits
        if failure is not None and failure.ByteSize() > limits.blob_size_error_bytes:
            failure = failures.too_large(failure, limits.blob_size_warn_bytes)
            problems.append(failure)

        def change(step: WorkflowStep, activity: Activity) -> None:
            if details is not None:
                activities.heartbeat(step, activity, details, identity)
                count_heartbeat(step, details)
            activities.fail_activity(step, activity, failure, identity, worker_version)

        await self._change(target, change)
        return problems

    async def cancel(self, target: Target, details: Payloads | None, identity: str) -> None:
        self.check_identity(identity)
        if self._is_too_large(details):
            await self._fail(target, failures.CANCEL_DETAILS_TOO_LARGE, identity)
            return

        def change(step: WorkflowStep, activity: Activity) -> None:
            if not activity.cancel_requested:
                raise invalid_argument("unable to mark activity as canceled without activity being request canceled first")
            activities.cancel_activity(step, activity, details, identity)
            schedule_task(step)

        await self._change(target, change)

    def check_identity(self, identity: str) -> None:
        """Refuse an identity that is too long to keep."""
        if len(identity.encode()) > self._services.limits.max_id_length:
            raise invalid_argument("Identity length exceeds limit.")

    def _is_too_large(self, payloads: Payloads | None) -> bool:
        return payloads is not None and payloads.ByteSize() > self._services.limits.blob_size_error_bytes

    async def _fail(self, target: Target, message: str, identity: str) -> None:
        """The answer is accepted and the activity fails: sending it again would not make it smaller."""
        failure = failures.server_failure(message, non_retryable=True)
        await self._change(target, lambda step, activity: activities.fail_activity(step, activity, failure, identity))

    async def _change(self, target: Target, change: Change, *, may_be_unstarted: bool = False) -> None:
        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            activity = target.find(step.state)
            if not activity.started_at and not may_be_unstarted:
                raise not_found(GONE)
            change(step, activity)

        await self._services.grow(target.namespace_id, target.workflow_id, target.run_id, decide)


def check_retry_delays(failure: Failure | None) -> None:
    """Refuse a next-retry delay, anywhere in the chain of causes, that is no duration."""
    while failure is not None:
        info = failure.application_failure_info
        if info.HasField("next_retry_delay"):
            delay = info.next_retry_delay
            if delay.seconds * delay.nanos < 0 or abs(delay.nanos) >= SECOND or abs(delay.seconds) * SECOND > LONGEST_DELAY:
                shown = f"seconds:{delay.seconds} nanos:{delay.nanos}"
                raise invalid_argument(f"NextRetryDelay is not a valid duration: {shown} is out of range or has mixed signs")
        failure = failure.cause if failure.HasField("cause") else None
