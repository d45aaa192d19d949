"""What the workflow feature's RPCs and effects share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from perdure.core.clock import Clock
from perdure.core.errors import ApiError, not_found
from perdure.core.execution import ChainKey
from perdure.core.limits import Limits
from perdure.engine.engine import Engine
from perdure.engine.live import AnyExecution, Execution
from perdure.engine.transaction import Transaction
from perdure.features.namespace.registry import NamespaceRegistry
from perdure.features.task_queue.polling import Polling
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.state import WorkflowState, WorkflowVolatile
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.too_big import refuse_excess
from perdure.features.workflow.validation import check_run_id
from perdure.matching.matching import Matching

R = TypeVar("R")
WorkflowExecution = Execution[WorkflowState, WorkflowVolatile]


@dataclass(slots=True)
class WorkflowServices:
    """The parts of the server that workflows need."""

    engine: Engine
    matching: Matching
    namespaces: NamespaceRegistry
    clock: Clock
    limits: Limits
    polling: Polling = field(init=False)

    def __post_init__(self) -> None:
        self.polling = Polling(self.matching, self.clock, self.limits)

    async def step(self, namespace_id: str, workflow_id: str, run_id: str, decide: Callable[[WorkflowStep, Transaction], R]) -> R:
        """Step a run (the current one without run id); the result is durable on return. Raises ApiError NOT_FOUND when there is none.

        As with :meth:`transact`, a decision may return an ApiError.
        """

        def with_step(transaction: Transaction) -> R:
            return decide(_addressed_step(transaction, workflow_id, run_id), transaction)

        return await self.transact(ChainKey(namespace_id, WORKFLOW, workflow_id), run_id, with_step)

    async def grow(self, namespace_id: str, workflow_id: str, run_id: str, decide: Callable[[WorkflowStep, Transaction], R]) -> R:
        """As :meth:`step`, for what adds to a run. Raises ApiError INVALID_ARGUMENT when that would be too much: the run has ended then."""

        def within_limits(transaction: Transaction) -> R:
            step = _addressed_step(transaction, workflow_id, run_id)
            outcome = decide(step, transaction)
            refuse_excess(step)
            return outcome

        return await self.transact(ChainKey(namespace_id, WORKFLOW, workflow_id), run_id, within_limits)

    async def transact(self, key: ChainKey, run_id: str | None, decide: Callable[[Transaction], R]) -> R:
        """Apply a decision to a chain of runs; the result is durable on return.

        A decision that returns an ApiError has that error raised, after what it recorded is durable.
        """
        result = await self.engine.transact(key, run_id, decide)
        if isinstance(result, ApiError):
            raise result
        return result

    async def run(self, namespace_id: str, workflow_id: str, run_id: str, *, trailing: bool = False) -> WorkflowExecution:
        """A run to read from, everything known about it durable. Raises ApiError NOT_FOUND.

        trailing: but for what may trail; see :meth:`perdure.engine.partition.Partition.read`.
        """
        execution = await self.engine.read(ChainKey(namespace_id, WORKFLOW, workflow_id), run_id, trailing=trailing)
        if execution is None:
            check_run_id(run_id)
            raise no_such_run(workflow_id, run_id)
        return execution


def _addressed_step(transaction: Transaction, workflow_id: str, run_id: str) -> WorkflowStep:
    if transaction.run is None:
        check_run_id(run_id)
        raise no_such_run(workflow_id, run_id)
    return step_of(transaction, transaction.run)


def step_of(transaction: Transaction, execution: AnyExecution) -> WorkflowStep:
    """The step of a workflow run in a transaction."""
    return cast(WorkflowStep, transaction.step(execution))


def no_such_run(workflow_id: str, run_id: str) -> ApiError:
    """The official wording: with a run id, it names both."""
    if run_id:
        return not_found(f'workflow execution not found for workflow ID "{workflow_id}" and run ID "{run_id}"')
    return not_found(f"workflow not found for ID: {workflow_id}")
