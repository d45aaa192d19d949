"""PollActivityTaskQueue, RecordActivityTaskHeartbeat, RespondActivityTask…, and the same by id."""

from __future__ import annotations

from collections.abc import Callable

from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    RecordActivityTaskHeartbeatRequest,
    RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledRequest,
    RespondActivityTaskCanceledResponse,
    RespondActivityTaskCompletedRequest,
    RespondActivityTaskCompletedResponse,
    RespondActivityTaskFailedRequest,
    RespondActivityTaskFailedResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import to_timestamp
from perdure.core.errors import ApiError, invalid_argument, not_found
from perdure.core.execution import RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow import activities
from perdure.features.workflow.activity_state import Activity
from perdure.features.workflow.effects import ACTIVITY_QUEUE
from perdure.features.workflow.jobs import DispatchActivityTask
from perdure.features.workflow.rpc.tasks import poll_until
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.tokens import TaskToken, decode_token, encode_token
from perdure.features.workflow.worker_versions import stamp_of
from perdure.matching.task_queue import QueueKey, Task

GONE = "invalid activityID or activity already timed out or invoking workflow is completed"

Change = Callable[[WorkflowStep, Activity], None]


class ActivityRpc:
    """Hands activity attempts to workers and takes their answers."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("PollActivityTaskQueue", self.poll)
        methods.handle("RecordActivityTaskHeartbeat", self.heartbeat)
        methods.handle("RespondActivityTaskCompleted", self.complete)
        methods.handle("RespondActivityTaskFailed", self.fail)
        methods.handle("RespondActivityTaskCanceled", self.cancel)

    async def poll(self, request: PollActivityTaskQueueRequest, call: Call) -> PollActivityTaskQueueResponse:
        key = QueueKey(call.namespace_id, request.task_queue.name, ACTIVITY_QUEUE)
        until = poll_until(call, self._services)
        while True:
            task = await self._services.matching.poll(key, request.identity, until, is_connected=call.is_connected)
            if task is None:
                return PollActivityTaskQueueResponse()
            response = await self._start(task, request)
            if response is not None:
                return response

    async def _start(self, task: Task, request: PollActivityTaskQueueRequest) -> PollActivityTaskQueueResponse | None:
        """Claim the attempt; None when it is stale."""
        key, job = task.key, task.job
        assert isinstance(job, DispatchActivityTask)

        def decide(step: WorkflowStep, transaction: Transaction) -> Activity | None:
            activity = step.state.activities.get(job.scheduled_event_id)
            if not step.state.is_open or activity is None or activity.stamp != job.stamp or activity.started_at:
                return None
            activities.start_activity(step, activity, request.identity, transaction.ids.uuid(), stamp_of(request))
            return activity

        try:
            activity = await self._services.step(key.namespace_id, key.business_id, key.run_id, decide)
        except ApiError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise
        if activity is None:
            return None
        execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
        return self.task_response(execution, activity)

    def task_response(self, execution: WorkflowExecution, activity: Activity) -> PollActivityTaskQueueResponse:
        """A started attempt as its worker gets it."""
        key = execution.key
        attributes = activity.attributes
        response = PollActivityTaskQueueResponse(
            task_token=encode_token(_token(key, activity)), workflow_namespace=self._services.namespaces.by_id(key.namespace_id).name,
            workflow_type=execution.state.started.workflow_type,
            workflow_execution=WorkflowExecutionId(workflow_id=key.business_id, run_id=key.run_id),
            activity_type=attributes.activity_type, activity_id=attributes.activity_id,
            header=attributes.header if attributes.HasField("header") else None, input=attributes.input if attributes.HasField("input") else None,
            heartbeat_details=activity.heartbeat_details, scheduled_time=to_timestamp(activity.first_scheduled_at),
            current_attempt_scheduled_time=to_timestamp(activity.scheduled_at), started_time=to_timestamp(activity.started_at),
            attempt=activity.attempt, schedule_to_close_timeout=attributes.schedule_to_close_timeout,
            start_to_close_timeout=attributes.start_to_close_timeout, heartbeat_timeout=attributes.heartbeat_timeout,
            retry_policy=attributes.retry_policy, priority=attributes.priority if attributes.HasField("priority") else None,
        )  # fmt: skip
        return response

    async def heartbeat(self, request: RecordActivityTaskHeartbeatRequest, call: Call) -> RecordActivityTaskHeartbeatResponse:
        details = request.details if request.HasField("details") else None
        cancel_requested = await self._change(
            decode_token(request.task_token), lambda step, activity: activities.heartbeat(step, activity, details)
        )
        return RecordActivityTaskHeartbeatResponse(cancel_requested=cancel_requested)

    async def complete(self, request: RespondActivityTaskCompletedRequest, call: Call) -> RespondActivityTaskCompletedResponse:
        result = request.result if request.HasField("result") else None
        await self._change(decode_token(request.task_token), lambda s, a: activities.complete_activity(s, a, result, request.identity))
        return RespondActivityTaskCompletedResponse()

    async def fail(self, request: RespondActivityTaskFailedRequest, call: Call) -> RespondActivityTaskFailedResponse:
        if request.HasField("failure") and not request.failure.HasField("application_failure_info"):
            raise invalid_argument("Failure must have ApplicationFailureInfo.")

        def change(step: WorkflowStep, activity: Activity) -> None:
            if request.HasField("last_heartbeat_details"):
                activities.heartbeat(step, activity, request.last_heartbeat_details)
            activities.fail_activity(step, activity, request.failure, request.identity)

        await self._change(decode_token(request.task_token), change)
        return RespondActivityTaskFailedResponse()

    async def cancel(self, request: RespondActivityTaskCanceledRequest, call: Call) -> RespondActivityTaskCanceledResponse:
        details = request.details if request.HasField("details") else None

        def change(step: WorkflowStep, activity: Activity) -> None:
            if not activity.cancel_requested:
                raise invalid_argument("unable to mark activity as canceled without activity being request canceled first")
            activities.cancel_activity(step, activity, details, request.identity)

        await self._change(decode_token(request.task_token), change)
        return RespondActivityTaskCanceledResponse()

    async def _change(self, token: TaskToken, change: Change) -> bool:
        """Apply a worker's answer to the attempt that the token was given for; returns whether cancellation is requested."""

        def decide(step: WorkflowStep, transaction: Transaction) -> bool:
            activity = step.state.activities.get(token.scheduled_event_id)
            if not step.state.is_open or activity is None or activity.stamp != token.stamp or not activity.started_at:
                raise not_found(GONE)
            change(step, activity)
            return activity.cancel_requested

        return await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)


def _token(key: RunKey, activity: Activity) -> TaskToken:
    return TaskToken(
        key.namespace_id, key.business_id, key.run_id, activity.scheduled_event_id, activity.attempt, stamp=activity.stamp,
        activity_id=activity.activity_id,
    )  # fmt: skip
