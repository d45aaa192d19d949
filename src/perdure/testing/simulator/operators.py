"""Simulated operators: now and then somebody intervenes with what runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest, ResetWorkflowExecutionRequest

from perdure.core.errors import ApiError, Code
from perdure.core.ids import IdSource
from perdure.testing.simulated_network import SimulatedNetwork
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.callers import Caller, Runs
from perdure.testing.simulator.replay import NAMESPACE

E = EventType
Exclude = ResetReapplyExcludeType
TASK_ENDS = frozenset({E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, E.EVENT_TYPE_WORKFLOW_TASK_FAILED, E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT})
CALLS = (0, 0, 0, 2, 5, 12)
"""In half of the simulations nobody intervenes."""


class SimulatedOperator(Caller):
    """One operator, who has a certain number of interventions in mind."""

    def __init__(self, network: SimulatedNetwork, rng: random.Random, ids: IdSource, auditor: Auditor, runs: Runs) -> None:
        super().__init__(network, rng, ids, auditor, runs)
        self._calls = rng.choice(CALLS)

    async def run(self) -> None:
        """Intervene, one time after the other."""
        for _ in range(self._calls):
            await self._think()
            if self._runs:
                with suppress(ApiError):
                    await self._reset()

    # -- reset ------------------------------------------------------------------------------------------
    async def _reset(self) -> None:
        """Send a run back to some workflow task, mostly to one that is there."""
        execution = self._execution()
        history = await self._history(execution)
        points = _reset_points(history)
        is_possible = bool(points) and self._rng.random() < 0.95
        token = self._ids.uuid()
        request = ResetWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, reason=token, request_id=token, identity="operator",
            workflow_task_finish_event_id=self._rng.choice(points) if is_possible else self._rng.randrange(len(history) + 3),
        )  # fmt: skip
        if self._rng.random() < 0.3:
            request.reset_reapply_type = self._rng.choice((1, 2, 3))  # pyright: ignore
        elif self._rng.random() < 0.5:
            kinds = list(Exclude.values())
            request.reset_reapply_exclude_types.extend(self._rng.sample(kinds, self._rng.randrange(1, len(kinds))))
        self._auditor.may_be_reset(request)
        await asyncio.gather(self._send_reset(request, is_possible=is_possible and bool(execution.run_id)), *self._meanwhile(execution))

    async def _send_reset(self, request: ResetWorkflowExecutionRequest, *, is_possible: bool) -> None:
        """is_possible: to refuse it would be a mistake."""
        try:
            response = await self._call("ResetWorkflowExecution", request)
            self._runs.append((request.workflow_execution.workflow_id, response.run_id))
        except ApiError as error:
            if error.code == Code.INVALID_ARGUMENT and is_possible:
                self._auditor.fail(f"a possible reset was refused: {request} {error!r}")

    def _meanwhile(self, execution: WorkflowExecution) -> list[Coroutine[None, None, None]]:
        """Signals to a run that is being reset: some come while the reset reads what there is."""

        async def signal(seconds: float) -> None:
            await asyncio.sleep(seconds)
            with suppress(ApiError):
                await self._send_signal(execution.workflow_id, execution.run_id)

        if not execution.run_id or self._rng.random() < 0.5:
            return []
        return [signal(self._rng.choice((0.0, 0.05)) * self._rng.random()) for _ in range(self._rng.choice((1, 3, 6)))]

    async def _history(self, execution: WorkflowExecution) -> list[HistoryEvent]:
        events: list[HistoryEvent] = []
        request = GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution)
        while True:
            response = await self._call("GetWorkflowExecutionHistory", request)
            events.extend(response.history.events)
            request.next_page_token = response.next_page_token
            if not request.next_page_token:
                return events


def _reset_points(history: list[HistoryEvent]) -> list[int]:
    """The ids of events before which a workflow task was pending."""
    points: list[int] = []
    is_pending = False
    for event in history:
        if is_pending:
            points.append(event.event_id)
        if event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            is_pending = True
        elif event.event_type in TASK_ENDS:
            is_pending = False
    return points
