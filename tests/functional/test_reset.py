"""E7 through the official SDK: reset of running and closed runs, what is reapplied, children, dedup, big histories, restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.settings import ServerSettings
from tests.support.waiting import until

QUEUE = "reset"
SECOND = timedelta(seconds=1)
E = EventType

calls: list[str] = []


@activity.defn
async def note(what: str) -> str:
    calls.append(what)
    return what


@workflow.defn
class Collecting:
    """Collects signals until it is told to finish; one activity before, one after."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.finished = False

    @workflow.signal
    def add(self, item: int) -> None:
        self.items.append(item)

    @workflow.signal
    def finish(self) -> None:
        self.finished = True

    @workflow.update
    async def double(self, item: int) -> int:
        self.items.append(item * 2)
        return item * 2

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.execute_activity(note, "before", start_to_close_timeout=10 * SECOND)
        await workflow.wait_condition(lambda: self.finished)
        await workflow.execute_activity(note, "after", start_to_close_timeout=10 * SECOND)
        return self.items


@workflow.defn
class Child:
    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.released)
        return "from the child"

    def __init__(self) -> None:
        self.released = False

    @workflow.signal
    def release(self) -> None:
        self.released = True


@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> str:
        child = await workflow.start_child_workflow(Child.run, id=f"{workflow.info().workflow_id}-child")
        await workflow.sleep(0.01)
        return await child


@pytest.fixture
async def client(server: Server) -> Client:
    calls.clear()
    return await Client.connect(server.grpc_address)


def worker(client: Client) -> Worker:
    return Worker(
        client, task_queue=QUEUE, workflows=[Collecting, Parent, Child], activities=[note], workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=SECOND,
    )  # fmt: skip


async def events_of(handle: WorkflowHandle[Any, Any], event_type: int) -> list[Any]:
    return [event async for event in handle.fetch_history_events() if event.event_type == event_type]


async def reset(client: Client, handle: WorkflowHandle[Any, Any], event_id: int, request_id: str = "again", **fields: Any) -> str:
    request = ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.run_id or ""), reason="test",
        workflow_task_finish_event_id=event_id, request_id=request_id, **fields,
    )  # fmt: skip
    return (await client.workflow_service.reset_workflow_execution(request)).run_id


async def tasks(handle: WorkflowHandle[Any, Any], count: int) -> list[Any]:
    """The completed workflow tasks, once there are so many."""

    async def completed() -> list[Any]:
        found = await events_of(handle, E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        return found if len(found) >= count else []

    return await until(completed)


async def first_task(handle: WorkflowHandle[Any, Any]) -> int:
    return (await events_of(handle, E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED))[0].event_id


async def test_signals_and_updates_happen_again(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE)
        await tasks(handle, 1)
        await handle.signal(Collecting.add, 1)
        assert await handle.execute_update("double", 2) == 4  # pyright: ignore[reportUnknownMemberType]  an overload of the SDK is not fully typed
        await handle.signal(Collecting.add, 5)
        old = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        run_id = await reset(client, old, await first_task(old))
        latest = client.get_workflow_handle_for(Collecting.run, handle.id)
        await latest.signal(Collecting.finish)
        assert sorted(await latest.result()) == [1, 4, 5]
        assert (await old.describe()).status == WorkflowExecutionStatus.TERMINATED
        assert (await latest.describe()).run_id == run_id
        assert calls == ["before", "before", "after"]


async def test_excluded_signals_do_not_happen_again(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE)
        await tasks(handle, 1)  # a signal that came earlier would be before the point
        await handle.signal(Collecting.add, 1)
        await handle.signal(Collecting.finish)
        assert await handle.result() == [1]
        excluded = [ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL]
        await reset(client, handle, await first_task(handle), reset_reapply_exclude_types=excluded)
        latest = client.get_workflow_handle_for(Collecting.run, handle.id)
        await latest.signal(Collecting.finish)
        assert await latest.result() == []


async def test_same_request_resets_once(client: Client) -> None:
    """The official server resets again; see the decision about it."""
    async with worker(client):
        handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE)
        await handle.signal(Collecting.add, 1)
        await handle.execute_update("double", 1)  # pyright: ignore[reportUnknownMemberType]  an overload of the SDK is not fully typed
        event_id = await first_task(handle)
        first = await reset(client, handle, event_id)
        assert await reset(client, handle, event_id) == first
        assert await reset(client, handle, event_id, "another") != first
        await client.get_workflow_handle(handle.id).terminate()


async def test_child_stays_with_the_new_run(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Parent.run, id="p", task_queue=QUEUE)
        completed = await tasks(handle, 3)
        started = await events_of(handle, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
        after_start = next(event.event_id for event in completed if event.event_id > started[0].event_id)
        await reset(client, handle, after_start)
        child = client.get_workflow_handle("p-child")
        assert (await child.describe()).status == WorkflowExecutionStatus.RUNNING
        await child.signal(Child.release)
        latest = client.get_workflow_handle_for(Parent.run, "p")
        assert await latest.result() == "from the child"
        assert len(await events_of(latest, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)) == 1


async def test_no_signal_is_lost_while_resets_happen(client: Client) -> None:
    """Every signal that was acknowledged reaches the last run, whenever it came."""
    async with worker(client):
        handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE)
        latest = client.get_workflow_handle_for(Collecting.run, handle.id)
        await tasks(handle, 1)

        async def send(first: int) -> None:
            for item in range(first, first + 40):
                await latest.signal(Collecting.add, item)

        async def reset_often() -> None:
            for number in range(5):
                await reset(client, latest, 4, f"reset-{number}")

        await asyncio.gather(send(0), send(100), reset_often())
        await latest.signal(Collecting.finish)
        assert sorted(await latest.result()) == [*range(40), *range(100, 140)]


async def test_long_history_is_copied(client: Client) -> None:
    handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE, start_delay=timedelta(hours=1))
    for first in range(0, 1_500, 100):
        await asyncio.gather(*(handle.signal(Collecting.add, item) for item in range(first, first + 100)))
    await handle.cancel()  # ends the delay
    await handle.signal(Collecting.finish)
    scheduled = (await events_of(handle, E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED))[0].event_id
    await reset(client, handle, scheduled + 1)
    latest = client.get_workflow_handle_for(Collecting.run, handle.id)
    before = [event.SerializeToString() async for event in handle.fetch_history_events()]
    after = [event.SerializeToString() async for event in latest.fetch_history_events()]
    assert after[:scheduled] == before[:scheduled]
    signaled = [event async for event in latest.fetch_history_events() if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED]
    assert len(signaled) == 1_501


async def test_reset_run_survives_a_restart(durable_database: str) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=durable_database)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        async with worker(client):
            handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE, task_timeout=SECOND)
            await handle.signal(Collecting.add, 7)
            await handle.execute_update("double", 4)  # pyright: ignore[reportUnknownMemberType]  an overload of the SDK is not fully typed
            await reset(client, handle, await first_task(handle))
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        async with worker(client):
            latest = client.get_workflow_handle_for(Collecting.run, "w")
            await latest.signal(Collecting.finish)
            assert sorted(await latest.result()) == [7, 8]


@pytest.mark.parametrize("event_id", [2, 1, 99])
async def test_point_without_a_pending_task_is_refused(client: Client, event_id: int) -> None:
    handle = await client.start_workflow(Collecting.run, id="w", task_queue=QUEUE)
    with pytest.raises(RPCError) as refused:
        await reset(client, handle, event_id)
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
