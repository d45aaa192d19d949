"""Simulated clients: they start, signal, update, cancel, terminate and look, and repeat what was not answered."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeWorkflowExecutionRequest,
    ExecuteMultiOperationRequest,
    GetWorkflowExecutionHistoryRequest,
    PauseWorkflowExecutionRequest,
    PollWorkflowExecutionUpdateRequest,
    RequestCancelWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError
from perdure.core.ids import IdSource
from perdure.testing.simulated_network import SimulatedNetwork, is_lost
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.callers import ATTEMPTS, Caller, Runs
from perdure.testing.simulator.programs import ProgramMaker, payloads
from perdure.testing.simulator.replay import NAMESPACE, WORKFLOW_QUEUE, WORKFLOW_TYPE

Operation = ExecuteMultiOperationRequest.Operation
ACCEPTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
REUSE_POLICIES = (1, 1, 1, 2, 3, 4)
CONFLICT_POLICIES = (0, 0, 1, 2, 3)


class SimulatedClient(Caller):
    """One client: a few random calls, one after the other."""

    def __init__(
        self, network: SimulatedNetwork, rng: random.Random, ids: IdSource, auditor: Auditor, runs: Runs, workflow_ids: list[str]
    ) -> None:
        super().__init__(network, rng, ids, auditor, runs)
        self._workflow_ids = workflow_ids
        self._programs = ProgramMaker(rng, ids.uuid, workflow_ids)

    async def run(self, calls: int) -> None:
        """So many random calls."""
        actions = (self._start, self._start, self._start, self._signal_with_start, self._signal_with_start,
                   self._signal, self._signal, self._signal, self._signal, self._read, self._read,
                   self._wait_for_end, self._cancel, self._terminate, self._update, self._update, self._pause, self._describe,
                   self._delete, self._update_with_start, self._update_with_start)  # fmt: skip
        for _ in range(calls):
            await self._think()
            action = self._start if not self._runs else self._rng.choice(actions)
            with suppress(ApiError):
                await action()

    async def _start(self) -> None:
        request = StartWorkflowExecutionRequest()
        self._fill_start(request)
        request.workflow_id_reuse_policy = self._rng.choice(REUSE_POLICIES)  # pyright: ignore
        if request.workflow_id_reuse_policy != 4:
            request.workflow_id_conflict_policy = self._rng.choice(CONFLICT_POLICIES)  # pyright: ignore
        if request.workflow_id_reuse_policy == 3 and request.workflow_id_conflict_policy == 3:
            request.workflow_id_conflict_policy = 0  # pyright: ignore  # the API refuses that pair
        self._let_follow(request)
        response = await self._call("StartWorkflowExecution", request)
        self._runs.append((request.workflow_id, response.run_id))

    def _let_follow(self, request: StartWorkflowExecutionRequest) -> None:
        """Sometimes the run is to be followed by others: after failures, or again and again until the execution's time is over."""
        chance = self._rng.random()
        if chance > 0.18:
            return
        program = self._programs.make()
        if self._rng.random() < 0.5:
            program.end, program.successor = "fail", None
        request.input.CopyFrom(payloads(program))
        if chance < 0.1:
            interval = to_duration(self._rng.choice((1, 5)) * SECOND)
            request.retry_policy.CopyFrom(RetryPolicy(maximum_attempts=self._rng.choice((2, 4)), initial_interval=interval))
        else:
            request.ClearField("workflow_start_delay")  # the API refuses both
            request.cron_schedule = self._rng.choice(("@every 5s", "@every 20s", "* * * * *"))
            request.workflow_execution_timeout.CopyFrom(to_duration(self._rng.choice((30, 130)) * SECOND))

    async def _signal_with_start(self) -> None:
        request = SignalWithStartWorkflowExecutionRequest(signal_name="note", signal_input=payloads(self._ids.uuid()))
        self._fill_start(request)
        request.workflow_id_conflict_policy = self._rng.choice((0, 2, 3))  # pyright: ignore
        response = await self._call("SignalWithStartWorkflowExecution", request)
        self._runs.append((request.workflow_id, response.run_id))

    def _fill_start(self, request: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest) -> None:
        request.namespace = NAMESPACE
        request.workflow_id = self._rng.choice(self._workflow_ids)
        request.workflow_type.CopyFrom(WorkflowType(name=WORKFLOW_TYPE))
        request.task_queue.CopyFrom(TaskQueue(name=WORKFLOW_QUEUE))
        request.input.CopyFrom(payloads(self._programs.make()))
        request.request_id = self._ids.uuid()
        request.identity = "client"
        if self._rng.random() < 0.15:
            request.workflow_run_timeout.CopyFrom(to_duration(self._rng.choice((1, 5, 30, 300)) * SECOND))
        if self._rng.random() < 0.1:
            request.workflow_start_delay.CopyFrom(to_duration(self._rng.choice((1, 20)) * SECOND))
        if self._rng.random() < 0.3:
            request.workflow_task_timeout.CopyFrom(to_duration(self._rng.choice((1, 3)) * SECOND))

    async def _signal(self) -> None:
        await self._send_signal(*self._rng.choice(self._runs))

    async def _cancel(self) -> None:
        request = RequestCancelWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=self._execution(), request_id=self._ids.uuid(), identity="client"
        )
        await self._call("RequestCancelWorkflowExecution", request)

    async def _terminate(self) -> None:
        if self._rng.random() < 0.5:
            request = TerminateWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=self._execution(), reason="chance")
            await self._call("TerminateWorkflowExecution", request)

    async def _update(self) -> None:
        """An update that is waited for, at once or by a poll after it was accepted."""
        workflow_id, run_id = self._rng.choice(self._runs)
        execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id if self._rng.random() < 0.7 else "")
        await self._wait_for_update(await self._call("UpdateWorkflowExecution", self._update_request(execution)))

    def _update_request(self, execution: WorkflowExecution) -> UpdateWorkflowExecutionRequest:
        """A new update; its result is its id."""
        meta = Meta(update_id=self._ids.uuid(), identity="client")
        policy = WaitPolicy(lifecycle_stage=self._rng.choice((ACCEPTED, COMPLETED)))
        return UpdateWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, wait_policy=policy,
            request=Request(meta=meta, input=Input(name="set", args=payloads(meta.update_id))),
        )  # fmt: skip

    async def _wait_for_update(self, response: UpdateWorkflowExecutionResponse) -> None:
        if not response.HasField("outcome"):
            poll = PollWorkflowExecutionUpdateRequest(
                namespace=NAMESPACE, update_ref=response.update_ref, wait_policy=WaitPolicy(lifecycle_stage=COMPLETED)
            )
            await self._call("PollWorkflowExecutionUpdate", poll)

    async def _update_with_start(self) -> None:
        """An update of the running workflow, or of one that is started for it."""
        start = StartWorkflowExecutionRequest()
        self._fill_start(start)
        start.ClearField("workflow_start_delay")  # the API refuses it
        start.workflow_id_conflict_policy = self._rng.choice((1, 2, 3, 3))  # pyright: ignore
        if start.workflow_id_conflict_policy != 3:
            start.workflow_id_reuse_policy = self._rng.choice((1, 1, 2, 3))  # pyright: ignore
        update = self._update_request(WorkflowExecution(workflow_id=start.workflow_id))
        request = ExecuteMultiOperationRequest(
            namespace=NAMESPACE, operations=[Operation(start_workflow=start), Operation(update_workflow=update)]
        )
        attempts = self._rng.choice(ATTEMPTS)
        try:
            response = await self._call("ExecuteMultiOperation", request, attempts=attempts)
        except ApiError as error:
            if attempts == 1 and not is_lost(error):
                self._auditor.refused_multi_operation(start, update, error)
            raise
        started, updated = response.responses[0].start_workflow, response.responses[1].update_workflow
        self._runs.append((start.workflow_id, started.run_id))
        await self._wait_for_update(updated)

    async def _pause(self) -> None:
        """Pause a workflow, and mostly let it go on later; healing does the rest."""
        execution = self._execution()
        request = PauseWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_id=execution.workflow_id, run_id=execution.run_id, request_id=self._ids.uuid(), reason="chance"
        )
        await self._call("PauseWorkflowExecution", request)
        if self._rng.random() < 0.7:
            await asyncio.sleep(self._rng.random() * 5)
            unpause = UnpauseWorkflowExecutionRequest(
                namespace=NAMESPACE, workflow_id=execution.workflow_id, run_id=execution.run_id, request_id=self._ids.uuid()
            )
            await self._call("UnpauseWorkflowExecution", unpause)

    async def _describe(self) -> None:
        await self._call("DescribeWorkflowExecution", DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=self._execution()))

    async def _delete(self) -> None:
        if self._rng.random() < 0.4:
            workflow_id, run_id = self._rng.choice(self._runs)
            self._auditor.may_be_deleted(workflow_id, run_id)
            execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
            await self._call("DeleteWorkflowExecution", DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=execution))

    async def _read(self) -> None:
        """A whole history, page by page."""
        execution = self._execution()
        known, last = self._auditor.known(execution.run_id), 0
        run_id, token = execution.run_id, b""
        while True:
            request = GetWorkflowExecutionHistoryRequest(
                namespace=NAMESPACE, execution=execution, next_page_token=token, maximum_page_size=self._rng.choice((0, 1, 3))
            )
            response = await self._call("GetWorkflowExecutionHistory", request)
            run_id = self._saw(run_id, response.history.events, is_certain=bool(execution.run_id))
            last = response.history.events[-1].event_id if response.history.events else last
            token = response.next_page_token
            if not token:
                break
        if last < known:
            self._auditor.fail(f"{execution.workflow_id}/{execution.run_id} was shown up to event {last}, though {known} was known before")

    async def _wait_for_end(self) -> None:
        """A long poll or two for the close event."""
        execution = self._execution()
        run_id, token = execution.run_id, b""
        for _ in range(self._rng.choice((1, 2, 4))):
            request = GetWorkflowExecutionHistoryRequest(
                namespace=NAMESPACE, execution=execution, next_page_token=token, wait_new_event=True,
                history_event_filter_type=self._rng.choice((1, 2)),  # pyright: ignore
            )  # fmt: skip
            response = await self._call("GetWorkflowExecutionHistory", request, timeout=self._rng.choice((1.0, 30.0)))
            run_id = self._saw(run_id, response.history.events, is_certain=bool(execution.run_id))
            token = response.next_page_token
            if not token:
                return
