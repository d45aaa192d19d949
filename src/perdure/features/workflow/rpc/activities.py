"""PollActivityTaskQueue, RecordActivityTaskHeartbeat, RespondActivityTask…"""

from __future__ import annotations

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
from perdure.core.errors import ApiError, Code, invalid_argument
from perdure.engine.transaction import Transaction
from perdure.features.workflow.activity.handout import activity_task
from perdure.features.workflow.activity.lifecycle import start_activity, take_back
from perdure.features.workflow.jobs import DispatchActivityTask
from perdure.features.workflow.rpc.activity_answers import ActivityAnswers, by_token
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.tokens import TaskToken, decode_token
from perdure.features.workflow.validation import merge_priority
from perdure.matching.backlog import ACTIVITY_QUEUE
from perdure.matching.task_queue import Task

CLAIMS = 3
"""How often a claim is repeated whose commit failed or has an unknown outcome."""


class ActivityRpc:
    """Hands activity attempts to workers and takes their answers."""

    def __init__(self, services: WorkflowServices, answers: ActivityAnswers) -> None:
        self._services = services
        self._answers = answers

    def register(self, methods: MethodTable) -> None:
        methods.handle("PollActivityTaskQueue", self.poll)
        methods.handle("RecordActivityTaskHeartbeat", self.heartbeat)
        methods.handle("RespondActivityTaskCompleted", self.complete)
        methods.handle("RespondActivityTaskFailed", self.fail)
        methods.handle("RespondActivityTaskCanceled", self.cancel)

    async def poll(self, request: PollActivityTaskQueueRequest, call: Call) -> PollActivityTaskQueueResponse:
        polling = self._services.polling
        polling.check(request, queue_first=True)
        metadata = request.task_queue_metadata
        rate = metadata.max_tasks_per_second.value if metadata.HasField("max_tasks_per_second") else None

        async def start(task: Task) -> PollActivityTaskQueueResponse | None:
            return await self._claim(task, request)

        async def give_back(task: Task, response: PollActivityTaskQueueResponse) -> None:
            await self._give_back(decode_token(response.task_token))

        return await polling.poll(ACTIVITY_QUEUE, request, call, start, give_back, rate) or PollActivityTaskQueueResponse()

    async def _give_back(self, token: TaskToken) -> None:
        """The worker has gone before it got its task: the attempt has not begun."""

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            activity = step.state.activities.get(token.scheduled_event_id)
            if activity is None or not step.state.is_open or not activity.started_at:
                return
            if (activity.attempt, activity.started_stamp) == (token.attempt, token.stamp):
                take_back(step, activity)

        await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)

    async def _claim(self, task: Task, request: PollActivityTaskQueueRequest) -> PollActivityTaskQueueResponse | None:
        """Start the attempt for this worker; None when it is stale.

        The start is durable before the worker sees it. When the outcome of that commit is not known, the claim is repeated under the same
        request id: it finds out whether it was itself that started the attempt. So an attempt is never handed out twice, nor lost.
        """
        key, job = task.key, task.job
        assert isinstance(job, DispatchActivityTask)
        request_id = self._services.engine.ids.uuid()

        def decide(step: WorkflowStep, transaction: Transaction) -> PollActivityTaskQueueResponse | None:
            activity = step.state.activities.get(job.scheduled_event_id)
            if not step.state.is_open or activity is None or activity.stamp != job.stamp or activity.pause is not None:
                return None
            if not activity.started_at:
                start_activity(step, activity, request.identity, request_id)
            elif activity.request_id != request_id:
                return None
            # Built here and now: by the time the start is durable the activity may have gone on.
            response = activity_task(step, activity)
            if (priority := step.state.given_priority) is not None:
                response.priority.CopyFrom(merge_priority(priority, activity.priority))
            return response

        for repeated in range(CLAIMS):
            try:
                return await self._services.step(key.namespace_id, key.business_id, key.run_id, decide)
            except ApiError as error:
                if error.code == Code.NOT_FOUND:
                    return None
                if error.code != Code.UNAVAILABLE or repeated == CLAIMS - 1:
                    raise
        return None

    async def heartbeat(self, request: RecordActivityTaskHeartbeatRequest, call: Call) -> RecordActivityTaskHeartbeatResponse:
        details = request.details if request.HasField("details") else None
        return await self._answers.heartbeat(by_token(decode_token(request.task_token)), details, request.identity)

    async def complete(self, request: RespondActivityTaskCompletedRequest, call: Call) -> RespondActivityTaskCompletedResponse:
        result = request.result if request.HasField("result") else None
        version = request.worker_version if request.HasField("worker_version") else None
        await self._answers.complete(by_token(decode_token(request.task_token)), result, request.identity, version)
        return RespondActivityTaskCompletedResponse()

    async def fail(self, request: RespondActivityTaskFailedRequest, call: Call) -> RespondActivityTaskFailedResponse:
        target = by_token(decode_token(request.task_token))
        if request.HasField("failure") and not request.failure.HasField("application_failure_info"):
            raise invalid_argument("Failure must have ApplicationFailureInfo.")
        failure = request.failure if request.HasField("failure") else None
        details = request.last_heartbeat_details if request.HasField("last_heartbeat_details") else None
        version = request.worker_version if request.HasField("worker_version") else None
        problems = await self._answers.fail(target, failure, details, request.identity, version)
        return RespondActivityTaskFailedResponse(failures=problems)

    async def cancel(self, request: RespondActivityTaskCanceledRequest, call: Call) -> RespondActivityTaskCanceledResponse:
        details = request.details if request.HasField("details") else None
        await self._answers.cancel(by_token(decode_token(request.task_token)), details, request.identity)
        return RespondActivityTaskCanceledResponse()
