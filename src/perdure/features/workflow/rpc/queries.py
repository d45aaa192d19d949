"""QueryWorkflow, RespondQueryTaskCompleted, ResetStickyTaskQueue."""

from __future__ import annotations

import asyncio

from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import QueryResultType
from temporalio.api.history.v1 import History
from temporalio.api.query.v1 import QueryRejected, WorkflowQuery, WorkflowQueryResult
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    QueryWorkflowRequest,
    QueryWorkflowResponse,
    ResetStickyTaskQueueRequest,
    ResetStickyTaskQueueResponse,
    RespondQueryTaskCompletedRequest,
    RespondQueryTaskCompletedResponse,
)

from perdure.core.call import ANSWER_BEFORE, Call, MethodTable
from perdure.core.clock import MINUTE
from perdure.core.errors import ApiError, Code, busy_workflow, failed_precondition, invalid_argument, not_found, unavailable
from perdure.engine.transaction import Transaction
from perdure.features.workflow.effects import STICKY_POLLER_WITHIN
from perdure.features.workflow.rpc import resume
from perdure.features.workflow.rpc.paging import HistoryPages
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import end_stickiness
from perdure.features.workflow.task.queries import (
    TOO_BIG,
    QueryTask,
    WaitingQuery,
    check_answerable,
    needs_no_task,
    rejected_status,
    response,
)
from perdure.features.workflow.tokens import TaskToken, decode_token, encode_token
from perdure.features.workflow.validation import check_execution
from perdure.matching.backlog import WORKFLOW_QUEUE
from perdure.matching.task_queue import DEFAULT_PRIORITY, QueueKey, Task
from perdure.matching.task_queue import TaskQueue as Queue

LONGEST = 10 * MINUTE
"""A caller without a deadline waits no longer."""

BUFFER_FULL = "consistent query buffer is full, this may be caused by too many queries and workflow not able to process query fast enough"
STOPPED = "buffered query cleared, please retry"
"""The server stops before a worker has answered."""


class QueryRpc:
    """Asks workers about runs."""

    def __init__(self, services: WorkflowServices, pages: HistoryPages) -> None:
        self._services = services
        self._pages = pages
        self._tasks: dict[str, QueryTask] = {}

    def register(self, methods: MethodTable) -> None:
        methods.handle("QueryWorkflow", self.query)
        methods.handle("RespondQueryTaskCompleted", self.respond)
        methods.handle("ResetStickyTaskQueue", self.reset_sticky)

    # -- the caller ---------------------------------------------------------------------------------
    async def query(self, request: QueryWorkflowRequest, call: Call) -> QueryWorkflowResponse:
        services = self._services
        check_execution(request.execution if request.HasField("execution") else None)
        if not request.HasField("query"):
            raise invalid_argument("WorkflowQuery is not set on request.")
        if not request.query.query_type:
            raise invalid_argument("QueryType is not set on request.")
        blob_limit = services.limits.blob_size_error_bytes
        if request.query.query_args.ByteSize() > blob_limit:
            raise invalid_argument(TOO_BIG)
        execution = await services.run(call.namespace_id, request.execution.workflow_id, request.execution.run_id)
        rejected = rejected_status(execution.state, request.query_reject_condition)
        if rejected is not None:
            return QueryWorkflowResponse(query_rejected=QueryRejected(status=rejected.value))  # pyright: ignore
        if request.query.query_type == resume.QUERY_TYPE:
            return await resume.answer_query(services, execution, request.query)
        until = min(services.clock.now() + LONGEST, call.deadline or services.clock.now() + LONGEST)
        check_answerable(execution.state, until, services.limits)
        result = await self._answer(execution, request.query, until)
        services.engine.check_tenure(execution.chain_key)
        return response(result, blob_limit)

    async def _answer(self, execution: WorkflowExecution, query: WorkflowQuery, until: int) -> WorkflowQueryResult:
        """Wait for the run's workflow task if it has one, else ask a worker at once."""
        key = execution.key
        loop = asyncio.get_running_loop()
        query_id = self._services.engine.ids.uuid()
        waiting = WaitingQuery(query, loop.create_future())
        expired: asyncio.Future[ApiError] = loop.create_future()

        def give_up(error: ApiError) -> None:
            if not expired.done():
                expired.set_result(error)

        alarms = (
            self._services.clock.call_at(until, lambda: give_up(_too_late())),
            self._services.engine.waits.on_end(lambda: give_up(unavailable(STOPPED))),
        )
        try:
            while not waiting.answer.done():
                if needs_no_task(execution.state, execution.volatile):
                    return await self._ask(execution, query, until)
                queries = execution.volatile.queries
                if query_id not in queries:
                    if len(queries) >= self._services.limits.buffered_queries:
                        raise busy_workflow(BUFFER_FULL)
                    queries[query_id] = waiting
                await self._next_change(execution, waiting, expired)
                if expired.done() and not waiting.answer.done():
                    raise expired.result()
                execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
            return waiting.answer.result()
        finally:
            for alarm in alarms:
                alarm.cancel()
            expired.cancel()
            execution.volatile.queries.pop(query_id, None)

    async def _next_change(self, execution: WorkflowExecution, waiting: WaitingQuery, expired: asyncio.Future[ApiError]) -> None:
        """Wait until the run has changed, or the answer is there, or it is too late."""
        changed = execution.watch()
        execution.pins += 1
        try:
            await asyncio.wait([changed, waiting.answer, expired], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            execution.pins -= 1

    async def _ask(self, execution: WorkflowExecution, query: WorkflowQuery, until: int) -> WorkflowQueryResult:
        """Put the query into the queue as a task of its own: first where the worker is that has the run in memory, then where any is."""
        services, key, state = self._services, execution.key, execution.state
        matching = services.matching
        now = services.clock.now()
        if state.sticky_queue:
            sticky = matching.find(QueueKey(key.namespace_id, state.sticky_queue, WORKFLOW_QUEUE))
            if sticky is not None and sticky.has_recent_poller(STICKY_POLLER_WITHIN):
                result = await self._dispatch(execution, query, sticky, min(until, now + (state.sticky_timeout or LONGEST)), sticky=True)
                if result is not None:
                    return result
            if state.is_open and services.clock.now() < until:
                await self._end_stickiness(execution)
        queue = matching.queue(QueueKey(key.namespace_id, state.task_queue, WORKFLOW_QUEUE))
        result = await self._dispatch(execution, query, queue, until, sticky=False)
        if result is None:
            raise _too_late()
        return result

    async def _dispatch(
        self, execution: WorkflowExecution, query: WorkflowQuery, queue: Queue, until: int, *, sticky: bool
    ) -> WorkflowQueryResult | None:
        """Wait for a worker's answer; None when there is none in time, or the queue was closed.

        Raises ApiError when nobody polls the queue, and when the server stops.
        """
        services = self._services
        window = services.limits.query_poller_window_ns
        task = QueryTask(services.engine.ids.uuid(), query, asyncio.get_running_loop().create_future(), sticky)
        priority = execution.state.priority
        offered = Task(
            execution.key, None, services.clock.now(), task, priority=priority.priority_key or DEFAULT_PRIORITY,
            fairness_key=priority.fairness_key, fairness_weight=priority.fairness_weight or 1.0, turned_away=task.turn_away,
        )  # fmt: skip
        self._tasks[task.id] = task
        alarms = [services.clock.call_at(until, task.turn_away), services.engine.waits.on_end(task.turn_away)]
        if not sticky:
            alarms.append(services.clock.call_at(until - ANSWER_BEFORE, lambda: _refuse_without_poller(task, queue, window)))
        execution.pins += 1
        try:
            queue.add(offered)
            result = await task.answer
            if result is None and services.engine.waits.are_over:
                raise unavailable(STOPPED)
            return result
        finally:
            execution.pins -= 1
            for alarm in alarms:
                alarm.cancel()
            queue.remove(offered)
            del self._tasks[task.id]

    async def _end_stickiness(self, execution: WorkflowExecution) -> None:
        key = execution.key
        sticky_queue = execution.state.sticky_queue

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if step.state.is_open and step.state.sticky_queue == sticky_queue:
                end_stickiness(step)

        await self._services.step(key.namespace_id, key.business_id, key.run_id, decide)

    # -- the worker ---------------------------------------------------------------------------------
    async def task_response(self, task: Task) -> PollWorkflowTaskQueueResponse | None:
        """A query task as a worker gets it, with the whole history unless the worker has it; None when nobody waits any longer."""
        query = task.payload
        if not isinstance(query, QueryTask) or query.answer.done():
            return None
        query.taken = True
        key = task.key
        execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
        state = execution.state
        token = TaskToken(key.namespace_id, key.business_id, key.run_id, query_id=query.id)
        result = PollWorkflowTaskQueueResponse(
            task_token=encode_token(token), workflow_execution=WorkflowExecutionId(workflow_id=key.business_id, run_id=key.run_id),
            workflow_type=state.started.workflow_type, previous_started_event_id=state.task.last_started_event_id, attempt=1,
            query=query.query, workflow_execution_task_queue=TaskQueue(name=state.task_queue, kind=1),  # pyright: ignore
        )  # fmt: skip
        if not query.sticky:
            history, result.next_page_token = await self._pages.first(execution, 1, execution.durable_event_id)
            result.history.CopyFrom(History.FromString(history))
        return result

    async def respond(self, request: RespondQueryTaskCompletedRequest, call: Call) -> RespondQueryTaskCompletedResponse:
        token = decode_token(request.task_token)
        task = self._tasks.get(token.query_id) if token.query_id else None
        if task is None or task.answer.done():
            raise not_found("query task not found, or already expired")
        task.answer.set_result(self._result(request))
        return RespondQueryTaskCompletedResponse()

    def _result(self, request: RespondQueryTaskCompletedRequest) -> WorkflowQueryResult:
        if request.query_result.ByteSize() > self._services.limits.blob_size_error_bytes:
            return WorkflowQueryResult(result_type=QueryResultType.QUERY_RESULT_TYPE_FAILED, error_message=TOO_BIG)
        return WorkflowQueryResult(
            result_type=request.completed_type, answer=request.query_result, error_message=request.error_message,
            failure=request.failure if request.HasField("failure") else None,
        )  # fmt: skip

    async def reset_sticky(self, request: ResetStickyTaskQueueRequest, call: Call) -> ResetStickyTaskQueueResponse:
        check_execution(request.execution if request.HasField("execution") else None)

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            end_stickiness(step)

        await self._services.step(call.namespace_id, request.execution.workflow_id, request.execution.run_id, decide)
        return ResetStickyTaskQueueResponse()


def _refuse_without_poller(task: QueryTask, queue: Queue, window: int) -> None:
    """window: nanoseconds; who polled longer ago has gone."""
    if not task.taken and not task.answer.done() and not queue.was_polled(window):
        task.answer.set_exception(failed_precondition("no poller seen for task queue recently, worker may be down"))


def _too_late() -> ApiError:
    return ApiError(Code.DEADLINE_EXCEEDED, "query timed out before a worker could process it")
