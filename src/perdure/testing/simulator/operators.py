"""Simulated operators: now and then somebody intervenes with what runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ResetWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UnpauseActivityRequest,
    UpdateWorkflowExecutionOptionsRequest,
)

from perdure.core.errors import ApiError, Code
from perdure.core.ids import IdSource
from perdure.testing.simulated_network import SimulatedNetwork
from perdure.testing.simulator.activity_controls import random_control
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.callers import Caller, Runs
from perdure.testing.simulator.programs import ProgramMaker, payloads
from perdure.testing.simulator.replay import NAMESPACE, WORKFLOW_QUEUE, WORKFLOW_TYPE

E = EventType
Exclude = ResetReapplyExcludeType
TASK_IS_PENDING = frozenset({E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, E.EVENT_TYPE_WORKFLOW_TASK_FAILED, E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT})
"""Behind these; a failed one is tried again, though history does not show that at once."""

TASK_BEGINS = frozenset({E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, E.EVENT_TYPE_WORKFLOW_TASK_STARTED})
OPTIONS_MASK = FieldMask(paths=["priority"])
CALLS = (0, 0, 2, 5, 12)
"""Sometimes nobody intervenes."""


class SimulatedOperator(Caller):
    """One operator, who has a certain number of interventions in mind."""

    def __init__(self, network: SimulatedNetwork, rng: random.Random, ids: IdSource, auditor: Auditor, runs: Runs) -> None:
        super().__init__(network, rng, ids, auditor, runs)
        self._calls = rng.choice(CALLS)
        self._programs = ProgramMaker(rng, ids.uuid, [])

    async def run(self) -> None:
        """Intervene, one time after the other."""
        actions = self._rng.choice(
            (
                (self._reset, self._reset, self._reset, self._change_options),
                (self._intervene,),
                (self._reset, self._change_options, self._intervene, self._intervene),
            )
        )
        for _ in range(self._calls):
            await self._think()
            if self._runs:
                with suppress(ApiError):
                    await self._rng.choice(actions)()

    async def _change_options(self) -> None:
        request = UpdateWorkflowExecutionOptionsRequest(
            namespace=NAMESPACE, workflow_execution=self._execution(), workflow_execution_options=self._new_options(),
            update_mask=OPTIONS_MASK, identity="operator",
        )  # fmt: skip
        await self._call("UpdateWorkflowExecutionOptions", request)

    def _new_options(self) -> WorkflowExecutionOptions:
        return WorkflowExecutionOptions(priority=Priority(fairness_key=self._ids.uuid()))

    # -- activities -------------------------------------------------------------------------------------
    async def _intervene(self) -> None:
        """Do something to a pending activity, or to all of a workflow, and perhaps something else after it."""
        workflow_id = self._runs[-1][0] if self._rng.random() < 0.5 else await self._start_busy()
        execution = WorkflowExecution(workflow_id=workflow_id)
        request = DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=execution)
        for _ in range(3):
            described = await self._call("DescribeWorkflowExecution", request)
            pending = [activity.activity_id for activity in described.pending_activities]
            if pending:
                break
            await asyncio.sleep(self._rng.random() * 0.3)
        else:
            return
        if self._rng.random() < 0.8:
            execution.run_id = described.workflow_execution_info.execution.run_id
        activity_id = self._rng.choice(pending)
        for _ in range(self._rng.choice((1, 3, 6))):
            method, control = random_control(self._rng, self._ids.uuid(), execution, activity_id)
            with suppress(ApiError):
                await self._call(method, control)
            await asyncio.sleep(self._rng.choice((0.0, 0.5, 5.0)) * self._rng.random())

    async def _start_busy(self) -> str:
        """Start a workflow that has activities for a while; returns its id."""
        request = StartWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_id=f"busy-{self._ids.uuid()}", workflow_type=WorkflowType(name=WORKFLOW_TYPE),
            task_queue=TaskQueue(name=WORKFLOW_QUEUE), input=payloads(self._programs.make_busy()), request_id=self._ids.uuid(),
        )  # fmt: skip
        response = await self._call("StartWorkflowExecution", request)
        self._runs.append((request.workflow_id, response.run_id))
        return request.workflow_id

    # -- reset ------------------------------------------------------------------------------------------
    async def _reset(self) -> None:
        """Send a run back to some workflow task, mostly to one that is there."""
        execution = self._execution()
        history = await self._history(execution)
        certain, uncertain = _reset_points(history)
        chance = self._rng.random()
        points = certain if chance < 0.8 else uncertain if chance < 0.95 else range(len(history) + 3)
        if not points:
            return
        token = self._ids.uuid()
        request = ResetWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, reason=token, request_id=token, identity="operator",
            workflow_task_finish_event_id=self._rng.choice(points),
        )  # fmt: skip
        if self._rng.random() < 0.3:
            request.reset_reapply_type = self._rng.choice((1, 2, 3))  # pyright: ignore
        elif self._rng.random() < 0.5:
            kinds = list(Exclude.values())
            request.reset_reapply_exclude_types.extend(self._rng.sample(kinds, self._rng.randrange(1, len(kinds))))
        if self._rng.random() < 0.2:
            operation = request.post_reset_operations.add()
            operation.update_workflow_options.workflow_execution_options.CopyFrom(self._new_options())
            operation.update_workflow_options.update_mask.CopyFrom(OPTIONS_MASK)
        self._auditor.may_be_reset(request)
        await asyncio.gather(
            self._send_reset(request, is_possible=points is certain and bool(execution.run_id)), *self._meanwhile(execution)
        )

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


def _reset_points(history: list[HistoryEvent]) -> tuple[list[int], list[int]]:
    """The ids of events before which a workflow task was pending: those directly behind its scheduling or its start, and others."""
    points: tuple[list[int], list[int]] = ([], [])
    is_pending = False
    before = 0
    for event in history:
        if is_pending:
            points[before not in TASK_BEGINS].append(event.event_id)
        before = event.event_type
        if before in TASK_IS_PENDING:
            is_pending = True
        elif before == E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            is_pending = False
    return points


async def release_activities(network: SimulatedNetwork, auditor: Auditor, workflow_id: str, run_id: str) -> None:
    """Let the activities of a run go on that an operator may have paused, without what they reported before."""
    if auditor.activities.asked_of[workflow_id].pauses:
        request = UnpauseActivityRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), unpause_all=True, reset_heartbeat=True
        )
        with suppress(ApiError):  # there may be none any more
            await network.call("UnpauseActivity", request)
