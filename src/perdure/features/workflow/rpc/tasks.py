"""PollWorkflowTaskQueue, RespondWorkflowTaskCompleted, RespondWorkflowTaskFailed."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import SECOND, to_timestamp
from perdure.core.errors import ApiError, not_found
from perdure.core.execution import RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.activity_commands import start_eager_activities
from perdure.features.workflow.activity_task import activity_task
from perdure.features.workflow.completion import Completion, complete_task
from perdure.features.workflow.effects import WORKFLOW_QUEUE
from perdure.features.workflow.interaction import CLOSED
from perdure.features.workflow.rpc.paging import HistoryPages
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.state import TaskStatus, WorkflowTask
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task import fail_task, schedule_task, start_task, task_events
from perdure.features.workflow.tokens import TaskToken, decode_token, encode_token, run_key
from perdure.features.workflow.update_messages import outgoing
from perdure.features.workflow.worker_versions import stamp_of
from perdure.matching.task_queue import QueueKey, Task

ANSWER_BEFORE = 1 * SECOND
"""An empty answer leaves so much earlier than the caller's deadline, so that it arrives in time."""


class TaskRpc:
    """Hands workflow tasks to workers and takes their answers."""

    def __init__(self, services: WorkflowServices, pages: HistoryPages) -> None:
        self._services = services
        self._pages = pages

    def register(self, methods: MethodTable) -> None:
        methods.handle("PollWorkflowTaskQueue", self.poll)
        methods.handle("RespondWorkflowTaskCompleted", self.complete)
        methods.handle("RespondWorkflowTaskFailed", self.fail)

    async def poll(self, request: PollWorkflowTaskQueueRequest, call: Call) -> PollWorkflowTaskQueueResponse:
        key = QueueKey(call.namespace_id, request.task_queue.name, WORKFLOW_QUEUE)
        until = poll_until(call, self._services)
        while True:
            task = await self._services.matching.poll(key, request.identity, until, is_connected=call.is_connected)
            if task is None:
                return PollWorkflowTaskQueueResponse()
            with self._services.matching.held(key, task):
                response = await self._start(task, request)
            if response is not None:
                return response

    async def _start(self, task: Task, request: PollWorkflowTaskQueueRequest) -> PollWorkflowTaskQueueResponse | None:
        """Claim the task; None when it is stale."""
        key, job = task.key, task.job
        assert job is not None

        def decide(step: WorkflowStep, transaction: Transaction) -> Handed | None:
            if not step.state.is_open or not job.is_current(step.state, step.volatile):
                return None
            if step.volatile.speculative is not None and not step.volatile.updates:
                step.set_speculative(None)  # what it was scheduled for has gone
                return None
            start_task(step, request.identity, transaction.ids.uuid(), stamp_of(request))
            is_sticky = request.task_queue.name != step.state.task_queue
            return hand_out(step, outgoing(step, include_sent=True), is_sticky=is_sticky)

        try:
            handed = await self._services.step(key.namespace_id, key.business_id, key.run_id, decide)
            return await self.with_history(key, handed) if handed is not None else None
        except ApiError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise

    async def with_history(self, key: RunKey, handed: Handed) -> PollWorkflowTaskQueueResponse:
        """A started task as its worker gets it. Raises ApiError."""
        execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
        history, handed.response.next_page_token = await self._pages.first(execution, handed.first_event_id, handed.last_event_id)
        handed.response.history.MergeFromString(history)
        if not handed.response.next_page_token:
            handed.response.history.events.extend(handed.unwritten)
        return handed.response

    async def complete(self, request: RespondWorkflowTaskCompletedRequest, call: Call) -> RespondWorkflowTaskCompletedResponse:
        token = decode_token(request.task_token)

        response = RespondWorkflowTaskCompletedResponse()
        handed: list[Handed] = []

        def decide(step: WorkflowStep, transaction: Transaction) -> Completion:
            _check_token(step, token, "Workflow task not found.")
            completion = complete_task(step, transaction, request)
            if completion.discarded:
                response.reset_history_event_id = step.state.task.last_started_event_id
            response.activity_tasks.extend(activity_task(step, activity) for activity in start_eager_activities(step, completion))
            if request.return_new_workflow_task and step.task.is_started:
                handed.append(hand_out(step, completion.outgoing, is_sticky=True))
            return completion

        await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)
        if handed:
            response.workflow_task.CopyFrom(await self.with_history(run_key(token), handed[0]))
        return response

    async def fail(self, request: RespondWorkflowTaskFailedRequest, call: Call) -> RespondWorkflowTaskFailedResponse:
        token = decode_token(request.task_token)

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            _check_token(step, token, "Workflow task not found.")
            cause = request.cause or WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED
            failure = request.failure if request.HasField("failure") else None
            fail_task(step, cause, failure, request.identity, binary_checksum=request.binary_checksum)
            schedule_task(step)

        await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)
        return RespondWorkflowTaskFailedResponse()


@dataclass(slots=True)
class Handed:
    """A task that a worker is about to get: everything about it but the written part of its history, which is read once it is durable.

    unwritten: the events of a transient or speculative task; they go behind first_event_id..last_event_id.
    """

    response: PollWorkflowTaskQueueResponse
    first_event_id: int
    last_event_id: int
    unwritten: tuple[HistoryEvent, ...]


def hand_out(step: WorkflowStep, messages: list[Message], *, is_sticky: bool) -> Handed:
    """The task that this step started, here and now: by the time it is durable the run may have gone on.

    is_sticky: the worker has seen the history up to its last completed task.
    """
    state, task, key = step.state, step.task, step.key
    is_written = task.status == TaskStatus.STARTED
    response = PollWorkflowTaskQueueResponse(
        task_token=encode_token(_token(key, task)),
        workflow_execution=WorkflowExecutionId(workflow_id=key.business_id, run_id=key.run_id),
        workflow_type=state.started.workflow_type, previous_started_event_id=state.task.last_started_event_id,
        started_event_id=task.started_event_id, attempt=task.attempt, workflow_execution_task_queue={"name": state.task_queue, "kind": 1},
        scheduled_time=to_timestamp(task.scheduled_at), started_time=to_timestamp(task.started_at), messages=messages,
    )  # fmt: skip
    response.history.SetInParent()
    return Handed(
        response,
        task.last_started_event_id + 1 if is_sticky else 1,
        task.started_event_id if is_written else state.next_event_id - 1,
        () if is_written else task_events(state, task),
    )


def poll_until(call: Call, services: WorkflowServices) -> int:
    """When a long poll is answered with nothing."""
    until = services.clock.now() + services.limits.matching_long_poll_ns
    return min(until, call.deadline - ANSWER_BEFORE) if call.deadline is not None else until


def _token(key: RunKey, task: WorkflowTask) -> TaskToken:
    return TaskToken(
        key.namespace_id, key.business_id, key.run_id, task.scheduled_event_id, task.attempt, task.started_event_id, clock=task.started_at
    )


def _check_token(step: WorkflowStep, token: TaskToken, message: str) -> None:
    """The answer must belong to the present attempt of the present task."""
    task = step.task
    if not step.state.is_open or not task.is_started or _token(step.key, task) != token:
        raise not_found(message)
