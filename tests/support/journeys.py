"""A workflow that shows whether anything was lost or done twice while a server or its database went away."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.waiting import until

Answer = TypeVar("Answer")

QUEUE = "journeys"
STEPS = 10
QUICK_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(milliseconds=200))


@dataclass
class Executions:
    """What the worker really did: (workflow id, activity id, attempt), in the order in which it began."""

    begun: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])
    #: Step 5 waits for this, where a test wants to stop there.
    gate: asyncio.Event = field(default_factory=asyncio.Event)


class Activities:
    """The activities, and the record of their executions."""

    def __init__(self, executions: Executions) -> None:
        self._executions = executions

    def _note(self) -> None:
        info = activity.info()
        self._executions.begun.append((str(info.workflow_id), info.activity_id, info.attempt))

    @activity.defn
    async def step(self, number: int) -> int:
        """May be attempted as often as it takes."""
        self._note()
        if number == 5:
            await self._executions.gate.wait()
        return number

    @activity.defn
    async def charge(self) -> str:
        """Must never be attempted twice."""
        self._note()
        return "charged"


@workflow.defn
class Journey:
    """Ten steps one after the other, a charge in the middle, and the signals that came; ends when it is told to."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.is_over = False

    @workflow.signal
    def note(self, token: str) -> None:
        self.notes.append(token)

    @workflow.signal
    def finish(self) -> None:
        self.is_over = True

    @workflow.run
    async def run(self) -> list[str]:
        for number in range(STEPS):
            await workflow.execute_activity(
                "step", number, activity_id=f"step-{number}", start_to_close_timeout=timedelta(seconds=2), retry_policy=QUICK_RETRIES
            )
            if number == 4:
                # Its worker may never have got it, or its answer got lost: it is not tried again.
                with contextlib.suppress(ActivityError):
                    await workflow.execute_activity(
                        "charge",
                        activity_id="charge",
                        start_to_close_timeout=timedelta(seconds=2),
                        retry_policy=RetryPolicy(maximum_attempts=1),
                    )
        await workflow.wait_condition(lambda: self.is_over)
        return self.notes


def worker(client: Client, executions: Executions) -> Worker:
    activities = Activities(executions)
    return Worker(
        client, task_queue=QUEUE, workflows=[Journey], activities=[activities.step, activities.charge],
        workflow_runner=UnsandboxedWorkflowRunner(), graceful_shutdown_timeout=timedelta(),
    )  # fmt: skip


async def start(client: Client, workflow_id: str) -> WorkflowHandle[Journey, list[str]]:
    """Start a journey, once, however often it has to be asked for."""
    return await insist(
        lambda: client.start_workflow(
            Journey.run, id=workflow_id, task_queue=QUEUE, task_timeout=timedelta(seconds=2), run_timeout=timedelta(minutes=5),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
    )  # fmt: skip


async def signal(client: Client, workflow_id: str, name: str, token: str, *arguments: str) -> None:
    """Signal a journey, once, however often it has to be asked for. token: unique for the journey."""
    request = SignalWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        signal_name=name,
        request_id=token,
        input=Payloads(payloads=await client.data_converter.encode(arguments)),
    )
    await insist(lambda: client.workflow_service.signal_workflow_execution(request, retry=True))


async def insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until there is an answer: UNAVAILABLE is the only failure that a client may see while something is away."""
    while True:
        try:
            return await call()
        except RPCError as error:
            if error.status != RPCStatusCode.UNAVAILABLE:
                raise


async def travel(client: Client, journeys: int, disturb: Callable[[Executions], Awaitable[None]]) -> None:
    """Run so many journeys through a disturbance, and check that nothing was lost and nothing doubled.

    disturb(what the worker has done so far): whatever goes wrong while they are on their way.
    """
    executions = Executions()
    executions.gate.set()
    signals: dict[str, list[str]] = {}

    async def begin(number: int) -> WorkflowHandle[Journey, list[str]]:
        handle = await start(client, f"journey-{number}")
        for note in range(5):
            token = f"{number}-{note}"
            await signal(client, handle.id, "note", token, token)
            signals.setdefault(handle.id, []).append(token)
        return handle

    async with worker(client, executions):
        travels = asyncio.gather(*(begin(number) for number in range(journeys)))
        await disturb(executions)
        handles = await travels
        for handle in handles:
            await signal(client, handle.id, "finish", "finish")
        for handle in handles:
            # In the order in which they were acknowledged, each once.
            assert await insist(handle.result) == signals[handle.id]
            assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.first_execution_run_id
        await check_histories(handles, executions)


async def has_moved(executions: Executions, journeys: int) -> None:
    """Wait until so many more activities have begun, unless all have."""
    goal = min(len(executions.begun) + journeys, journeys * STEPS)

    async def is_there() -> bool:
        return len(executions.begun) >= goal

    await until(is_there)


async def check_histories(handles: Sequence[WorkflowHandle[Journey, list[str]]], executions: Executions) -> None:
    """Each journey completed exactly once, with each step's last attempt in its history and no attempt begun twice or after that."""
    for execution, count in Counter(executions.begun).items():
        assert count == 1, f"{execution} was begun {count} times"
    latest: dict[tuple[str, str], int] = {}
    for workflow_id, activity_id, attempt in executions.begun:
        latest[workflow_id, activity_id] = max(attempt, latest.get((workflow_id, activity_id), 0))
    for handle in handles:
        events = (await handle.fetch_history()).events
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        kinds = Counter(event.event_type for event in events)
        assert kinds[EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED] == 1
        scheduled = {
            event.event_id: event.activity_task_scheduled_event_attributes.activity_id
            for event in events
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        }
        assert sorted(scheduled.values()) == sorted(["charge", *(f"step-{number}" for number in range(STEPS))])
        for event in events:
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                attributes = event.activity_task_started_event_attributes
                activity_id = scheduled[attributes.scheduled_event_id]
                assert attributes.attempt >= latest.get((handle.id, activity_id), 0), (
                    f"{activity_id} of {handle.id} was run after it had ended"
                )
                assert activity_id != "charge" or attributes.attempt == 1
