"""PollWorkflowTaskQueue, RespondWorkflowTaskCompleted, RespondWorkflowTaskFailed."""

from __future__ import annotations

import msgspec
from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import to_timestamp
from perdure.core.errors import ApiError, Code, invalid_argument, not_found
from perdure.core.execution import RunKey
from perdure.core.records import event_bytes, field_bytes
from perdure.engine.transaction import Transaction
from perdure.features.task_queue.validation import check_identity, check_version
from perdure.features.workflow.activity.commands import start_eager_activities
from perdure.features.workflow.activity.handout import activity_task
from perdure.features.workflow.commands import Completion
from perdure.features.workflow.failures import too_large
from perdure.features.workflow.rpc.paging import HistoryPages
from perdure.features.workflow.rpc.queries import QueryRpc
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.state import TaskStatus, WorkflowState, WorkflowTask, WorkflowVolatile
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.completion import complete_task
from perdure.features.workflow.task.lifecycle import (
    end_stickiness,
    fail_task,
    schedule_task,
    start_task,
    task_events,
)
from perdure.features.workflow.task.metrics import FAILED, count_failure
from perdure.features.workflow.task.problems import handle_problem
from perdure.features.workflow.task.queries import carried
from perdure.features.workflow.task.taking_back import take_back
from perdure.features.workflow.task.worker_versions import answering_stamp, stamp_of
from perdure.features.workflow.tokens import TaskToken, decode_token, encode_token, run_key
from perdure.features.workflow.update.messages import outgoing
from perdure.matching.backlog import WORKFLOW_QUEUE
from perdure.matching.task_queue import QueueKey, Task

Cause = WorkflowTaskFailedCause
NO_TASK = "Workflow task not found."
HISTORY_TAG = bytes([PollWorkflowTaskQueueResponse.HISTORY_FIELD_NUMBER << 3 | 2])


class TaskRpc:
    """Hands workflow tasks to workers and takes their answers."""

    def __init__(self, services: WorkflowServices, pages: HistoryPages, queries: QueryRpc) -> None:
        self._services = services
        self._pages = pages
        self._queries = queries

    def register(self, methods: MethodTable) -> None:
        methods.handle("PollWorkflowTaskQueue", self.poll)
        methods.handle("RespondWorkflowTaskCompleted", self.complete)
        methods.handle("RespondWorkflowTaskFailed", self.fail)

    # -- polls --------------------------------------------------------------------------------------
    async def poll(self, request: PollWorkflowTaskQueueRequest, call: Call) -> bytes:
        """The task without its history, and behind it the history as it is stored: nobody has to take it apart here."""
        polling = self._services.polling
        polling.check(request, queue_first=False)
        if request.binary_checksum in self._services.namespaces.by_id(call.namespace_id).bad_binaries:
            raise invalid_argument(f"Binary {request.binary_checksum} already marked as bad deployment.")
        history = b""

        async def start(task: Task) -> PollWorkflowTaskQueueResponse | None:
            nonlocal history
            if task.job is None:
                response = await self._queries.task_response(task)
            else:
                handed = await self._start(task, request)
                response = None if handed is None else handed.response
                history = b"" if handed is None else handed.history
            queue = self._services.matching.find(QueueKey(call.namespace_id, request.task_queue.name, WORKFLOW_QUEUE))
            if response is not None and queue is not None:
                response.backlog_count_hint = queue.backlog_count
            return response

        async def give_back(task: Task, response: PollWorkflowTaskQueueResponse) -> None:
            if task.job is None:
                self._services.matching.queue(QueueKey(call.namespace_id, request.task_queue.name, WORKFLOW_QUEUE)).put_back(task)
            else:
                await self._give_back(decode_token(response.task_token))

        response = await polling.poll(WORKFLOW_QUEUE, request, call, start, give_back)
        return b"" if response is None else response.SerializeToString() + field_bytes(HISTORY_TAG, history)

    async def _start(self, task: Task, request: PollWorkflowTaskQueueRequest) -> Handed | None:
        """Claim the task; None when it is stale."""
        key, job = task.key, task.job
        assert job is not None
        queue = request.task_queue

        def decide(step: WorkflowStep, transaction: Transaction) -> Handed | None:
            state = step.state
            if not state.is_open or not job.is_current(state, step.volatile):
                return None
            if step.volatile.speculative is not None and not step.volatile.updates:
                step.set_speculative(None)  # what it was scheduled for has gone
                return None
            if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY and not state.sticky_queue:
                return None  # a worker's own queue, but the run is not that worker's any more; the task is in the normal queue too
            if state.sticky_queue and queue.name != state.sticky_queue:
                end_stickiness(step)
            # A workflow's code has no effects of its own: a task whose start is lost is handed out again, and only one answer counts.
            step.may_trail = step.task.status == TaskStatus.SCHEDULED
            start_task(step, request.identity, transaction.ids.uuid(), stamp_of(request))
            messages = outgoing(step, include_sent=True)
            return hand_out(step.key, state, step.volatile, messages, is_sticky=bool(state.sticky_queue))

        try:
            handed = await self._services.step(key.namespace_id, key.business_id, key.run_id, decide)
            return handed if handed is not None and await self._add_history(key, handed) else None
        except ApiError as error:
            if error.code == Code.NOT_FOUND:
                return None
            raise

    async def _give_back(self, token: TaskToken) -> None:
        """The worker has gone before it got its task: another one shall have it."""
        key = run_key(token)
        partition = self._services.engine.partition_of(key.chain)
        if partition.forget_trailing(key, lambda execution: is_present(token, key, execution.state, execution.volatile)):
            return

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if _is_for(token, step):
                take_back(step)

        await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)

    async def whole(self, key: RunKey, handed: Handed) -> PollWorkflowTaskQueueResponse | None:
        """A started task as its worker gets it; None when it has come to an end already. Raises ApiError."""
        if not await self._add_history(key, handed):
            return None
        handed.response.history.SetInParent()
        handed.response.history.MergeFromString(handed.history)
        return handed.response

    async def _add_history(self, key: RunKey, handed: Handed) -> bool:
        """Read what the worker gets to see. False: the task has come to an end already. Raises ApiError."""
        while True:
            execution = await self._services.run(key.namespace_id, key.business_id, key.run_id, trailing=True)
            if not is_present(handed.token, key, execution.state, execution.volatile):
                return False
            handed.history, token = await self._pages.first(
                execution, handed.first_event_id, handed.last_event_id, handed.response.started_event_id
            )
            if not execution.dropped:  # else what was read from the store may be newer than what was in memory
                break
        handed.response.next_page_token = token
        if not token:
            handed.history += b"".join(event_bytes(event) for event in handed.unwritten)
        return True

    # -- answers ------------------------------------------------------------------------------------
    async def complete(self, request: RespondWorkflowTaskCompletedRequest, call: Call) -> RespondWorkflowTaskCompletedResponse:
        token = decode_token(request.task_token)
        self._check_completion(request)
        response = RespondWorkflowTaskCompletedResponse()
        handed: list[Handed] = []

        def decide(step: WorkflowStep, transaction: Transaction) -> Completion | ApiError:
            if not _is_for(token, step):
                raise not_found(NO_TASK)
            completion = complete_task(step, transaction, request)
            if isinstance(completion, ApiError):
                return completion
            if completion.discarded:
                response.reset_history_event_id = step.state.task.last_started_event_id
            response.activity_tasks.extend(activity_task(step, activity) for activity in start_eager_activities(step, completion))
            if completion.started_next:
                handed.append(hand_out(step.key, step.state, step.volatile, completion.outgoing, is_sticky=True))
            return completion

        await self._services.grow(token.namespace_id, token.workflow_id, token.run_id, decide)
        if handed and (task := await self.whole(run_key(token), handed[0])) is not None:
            response.workflow_task.CopyFrom(task)
        return response

    def _check_completion(self, request: RespondWorkflowTaskCompletedRequest) -> None:
        check_identity(request.identity, self._services.limits.max_id_length)
        options = request.deployment_options if request.HasField("deployment_options") else None
        check_version(request.worker_version_stamp, options, request.sticky_attributes.worker_task_queue, self._services.limits)

    async def fail(self, request: RespondWorkflowTaskFailedRequest, call: Call) -> RespondWorkflowTaskFailedResponse:
        token = decode_token(request.task_token)
        check_identity(request.identity, self._services.limits.max_id_length)
        failure = request.failure if request.HasField("failure") else None
        if failure is not None and failure.ByteSize() > self._services.limits.blob_size_error_bytes:
            failure = too_large(failure, self._services.limits.blob_size_warn_bytes)

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            if not _is_for(token, step):
                raise not_found(NO_TASK)
            count_failure(step, FAILED, request.cause)
            if request.cause == Cause.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE:
                # The worker's answer will not get smaller by trying again.
                terminate(step, "GrpcMessageTooLarge", SERVER_IDENTITY)
                return
            fail_task(
                step, request.cause, failure, request.identity, worker_version=answering_stamp(request),
                binary_checksum=request.binary_checksum,
            )  # fmt: skip
            handle_problem(step)
            schedule_task(step)

        await self._services.step(token.namespace_id, token.workflow_id, token.run_id, decide)
        return RespondWorkflowTaskFailedResponse()


class Handed(msgspec.Struct):
    """A task that a worker is about to get: everything about it but the written part of its history, which is read at the end.

    unwritten: the events of a transient or speculative task; they go behind first_event_id..last_event_id. history: once it is read, the
    bytes of a ``History``.
    """

    token: TaskToken
    response: PollWorkflowTaskQueueResponse
    first_event_id: int
    last_event_id: int
    unwritten: tuple[HistoryEvent, ...]
    history: bytes = b""


def hand_out(key: RunKey, state: WorkflowState, volatile: WorkflowVolatile, messages: list[Message], *, is_sticky: bool) -> Handed:
    """The run's started task, here and now: by the time what it rests on is durable the run may have gone on.

    is_sticky: the worker has seen the history up to its last completed task.
    """
    task = volatile.speculative or state.task
    is_written = task.status == TaskStatus.STARTED
    token = _token(key, task)
    response = PollWorkflowTaskQueueResponse(
        task_token=encode_token(token),
        workflow_execution=WorkflowExecutionId(workflow_id=key.business_id, run_id=key.run_id),
        workflow_type=state.started.workflow_type, previous_started_event_id=state.task.last_started_event_id,
        started_event_id=task.started_event_id, attempt=task.attempt,
        workflow_execution_task_queue=TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        scheduled_time=to_timestamp(task.scheduled_at), started_time=to_timestamp(task.started_at), messages=messages,
        queries=carried(volatile),
    )  # fmt: skip
    return Handed(
        token,
        response,
        task.last_started_event_id + 1 if is_sticky else 1,
        task.started_event_id if is_written else state.next_event_id - 1,
        () if is_written else task_events(state, task),
    )


def _token(key: RunKey, task: WorkflowTask) -> TaskToken:
    return TaskToken(
        key.namespace_id, key.business_id, key.run_id, task.scheduled_event_id, task.attempt, task.started_event_id, clock=task.started_at
    )


def is_present(token: TaskToken, key: RunKey, state: WorkflowState, volatile: WorkflowVolatile) -> bool:
    """Whether a token is that of the present attempt of the present task."""
    task = volatile.speculative or state.task
    return state.is_open and task.is_started and _token(key, task) == token


def _is_for(token: TaskToken, step: WorkflowStep) -> bool:
    """Whether an answer belongs to the present attempt of the present task."""
    return is_present(token, step.key, step.state, step.volatile)
