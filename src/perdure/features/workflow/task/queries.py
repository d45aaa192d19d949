"""Queries: answered by a worker, without a trace in history.

| the run                                      | a query                                                                             |
|----------------------------------------------|-------------------------------------------------------------------------------------|
| closed, or open and without a workflow task  | goes to the queue as a task of its own: nothing happened that the worker has not seen |
| has a workflow task, scheduled or started    | waits for it: a scheduled one carries it, after a started one it is looked at again  |
| closed before its first task was completed   | is refused: no worker could replay anything                                         |
| its task has failed twice or more            | is refused: the replay for the query would fail too                                 |
| waits for its first task                     | waits too, if the caller does                                                       |

So an answer shows all that was acknowledged before the query came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from temporalio.api.enums.v1 import QueryRejectCondition, QueryResultType
from temporalio.api.errordetails.v1 import QueryFailedFailure
from temporalio.api.query.v1 import WorkflowQuery, WorkflowQueryResult
from temporalio.api.workflowservice.v1 import QueryWorkflowResponse

from perdure.core.errors import ApiError, Code, invalid_argument, workflow_not_ready
from perdure.core.limits import Limits
from perdure.engine.transaction import Transaction
from perdure.features.workflow.state import Status, WorkflowState, WorkflowVolatile
from perdure.features.workflow.step import WorkflowStep

Answer = asyncio.Future[WorkflowQueryResult]

TOO_BIG = "Blob data size exceeds limit."


@dataclass(slots=True, eq=False)
class WaitingQuery:
    """A query that a workflow task will carry."""

    query: WorkflowQuery
    answer: Answer


@dataclass(slots=True, eq=False)
class QueryTask:
    """A query that is a task of its own.

    id: for its token. answer: None when its time is over, or its queue was closed. taken: by a worker.
    """

    id: str
    query: WorkflowQuery
    answer: asyncio.Future[WorkflowQueryResult | None]
    sticky: bool
    taken: bool = False

    def turn_away(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)


def rejected_status(state: WorkflowState, condition: QueryRejectCondition.ValueType) -> Status | None:
    """The status for which the caller, or a pause, wants no answer; None when the query may be answered."""
    if state.status == Status.PAUSED:
        return state.status
    if state.status == Status.RUNNING:
        return None
    clean = state.status == Status.COMPLETED
    if condition == QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_OPEN:
        return state.status
    if condition == QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY and not clean:
        return state.status
    return None


def check_answerable(state: WorkflowState, until: int, limits: Limits) -> None:
    """Raises ApiError when no worker will be able to answer. until: when the caller stops waiting, nanoseconds since the epoch."""
    if not state.is_open and not state.task.last_started_event_id:
        raise workflow_not_ready("Workflow execution closed before WorkflowTaskStarted event")
    if state.first_task_pending and state.execution_at > until:
        raise workflow_not_ready("Workflow task is not scheduled yet.")
    if state.is_open and state.task.attempt >= limits.workflow_task_failing_attempt:
        raise workflow_not_ready("Unable to query workflow due to Workflow Task in failed state.")


def needs_no_task(state: WorkflowState, volatile: WorkflowVolatile) -> bool:
    """Whether a worker that replays the history as it is would show everything that has happened."""
    if not state.task.last_started_event_id:
        return False
    return not state.is_open or not (volatile.speculative or state.task).is_pending


def carried(volatile: WorkflowVolatile) -> Mapping[str, WorkflowQuery]:
    """The queries that the present workflow task carries, by id."""
    return {query_id: waiting.query for query_id, waiting in volatile.queries.items()}


def answer_queries(step: WorkflowStep, transaction: Transaction, results: Mapping[str, WorkflowQueryResult]) -> None:
    """Give the answers that came with a workflow task's completion to whoever waits, once it is durable."""
    for query_id, result in results.items():
        waiting = step.volatile.queries.pop(query_id, None)
        if waiting is not None:
            transaction.after_commit(lambda waiting=waiting, result=result: _give(waiting.answer, result))


def _give(answer: Answer, result: WorkflowQueryResult) -> None:
    if not answer.done():
        answer.set_result(result)


def response(result: WorkflowQueryResult, blob_limit: int) -> QueryWorkflowResponse:
    """What the caller gets. blob_limit: bytes of an answer. Raises ApiError when the worker could not answer."""
    if result.result_type == QueryResultType.QUERY_RESULT_TYPE_ANSWERED:
        if result.answer.ByteSize() > blob_limit:
            raise invalid_argument(TOO_BIG)
        return QueryWorkflowResponse(query_result=result.answer)
    if result.result_type == QueryResultType.QUERY_RESULT_TYPE_FAILED:
        detail = QueryFailedFailure(failure=result.failure if result.HasField("failure") else None)
        raise ApiError(Code.INVALID_ARGUMENT, result.error_message, detail)
    raise invalid_argument("The worker answered the query with an unknown type of result.")
