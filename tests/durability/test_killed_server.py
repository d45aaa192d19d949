"""The server is killed with SIGKILL, again and again, under load from the official SDK: nothing that was acknowledged is lost, nothing
happens twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.server_process import ServerProcess
from tests.support.waiting import until

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
    return await client.start_workflow(Journey.run, id=workflow_id, task_queue=QUEUE, task_timeout=timedelta(seconds=2))


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


async def go_through_kills(server: ServerProcess, kills: int, journeys: int) -> None:
    executions = Executions()
    executions.gate.set()
    signals: dict[str, list[str]] = {}
    client = await Client.connect(server.address)

    async def travel(number: int) -> WorkflowHandle[Journey, list[str]]:
        handle = await start(client, f"journey-{number}")
        for note in range(5):
            token = f"{number}-{note}"
            await handle.signal(Journey.note, token)
            signals.setdefault(handle.id, []).append(token)
        return handle

    async def kill_and_restart() -> None:
        done = len(executions.begun)

        async def has_worked() -> bool:
            return len(executions.begun) >= min(done + journeys, journeys * STEPS)

        await until(has_worked)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    async with worker(client, executions):
        travels = asyncio.gather(*(travel(number) for number in range(journeys)))
        for _ in range(kills):
            await kill_and_restart()
        handles = await travels
        for handle in handles:
            await handle.signal(Journey.finish)
        for handle in handles:
            # In the order in which they were acknowledged, each once.
            assert await handle.result() == signals[handle.id]
            assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.first_execution_run_id
        await check_histories(handles, executions)


@pytest.mark.slow
async def test_killed_under_load_on_sqlite(tmp_path: Path) -> None:
    with ServerProcess(str(tmp_path / "perdure.db")) as server:
        await go_through_kills(server, kills=4, journeys=15)


@pytest.mark.slow
async def test_killed_under_load_on_postgresql(postgres_url: str) -> None:
    # Each time the new server waits until the lease of the dead one has run out.
    with ServerProcess(postgres_url) as server:
        await go_through_kills(server, kills=2, journeys=15)


@pytest.mark.slow
async def test_killed_at_step_5_of_10_goes_on_at_step_5(tmp_path: Path) -> None:
    executions = Executions()
    with ServerProcess(str(tmp_path / "perdure.db")) as server:
        client = await Client.connect(server.address)
        async with worker(client, executions):
            handle = await start(client, "journey")

            async def is_at_step_5() -> bool:
                return ("journey", "step-5", 1) in executions.begun

            await until(is_at_step_5)
            await asyncio.to_thread(server.kill)
            executions.gate.set()
            await asyncio.to_thread(server.start)
            await handle.signal(Journey.finish)
            await handle.result()
            await check_histories([handle], executions)
    before = [activity_id for _, activity_id, _ in executions.begun]
    assert before[:6] == ["step-0", "step-1", "step-2", "step-3", "step-4", "charge"]
    # Everything before step 5 was done once, by the server that was killed.
    assert Counter(before[6:]).keys() == {f"step-{number}" for number in range(5, STEPS)}
