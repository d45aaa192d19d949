"""E4 through the official SDK: updates across the death of a worker and of the server, validators, update-with-start, continue-as-new."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# The SDK leaves the type of some arguments of its update methods open.

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError, WorkflowUpdateHandle, WorkflowUpdateStage
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.settings import ServerSettings
from tests.support.waiting import until

QUEUE = "updates"


@activity.defn
async def confirm(item: str) -> str:
    return f"confirmed {item}"


@workflow.defn
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.released = False
        self.closed = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.closed)
        return self.items

    @workflow.update
    async def add(self, item: str) -> str:
        """Accepted at once, completed when the cart is released."""
        await workflow.wait_condition(lambda: self.released)
        confirmed = await workflow.execute_activity(confirm, item, start_to_close_timeout=timedelta(seconds=10))
        self.items.append(item)
        return confirmed

    @add.validator
    def check(self, item: str) -> None:
        if not item:
            raise ApplicationError("an item needs a name", type="Nameless")

    @workflow.signal
    def release(self) -> None:
        self.released = True

    @workflow.signal
    def close(self) -> None:
        self.closed = True


@workflow.defn
class Relay:
    """Continues as new after every update, until it has had eight."""

    def __init__(self) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self, before: list[str]) -> list[str]:
        await workflow.wait_condition(lambda: bool(self.items) and workflow.all_handlers_finished())
        items = before + self.items
        if len(items) < 8:
            workflow.continue_as_new(items)
        return items

    @workflow.update
    async def take(self, item: str) -> str:
        self.items.append(item)
        return item


def worker(client: Client) -> Worker:
    # Short, so that the task queue of a worker that is gone does not hold up its successor's first task.
    return Worker(
        client, task_queue=QUEUE, workflows=[Cart], activities=[confirm], workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )  # fmt: skip


async def start_and_add(client: Client, workflow_id: str) -> WorkflowUpdateHandle[str]:
    handle = await client.start_workflow(Cart.run, id=workflow_id, task_queue=QUEUE)
    return await handle.start_update(Cart.add, "apple", id="add-apple", wait_for_stage=WorkflowUpdateStage.ACCEPTED)


async def finish(client: Client, workflow_id: str, update: WorkflowUpdateHandle[str]) -> None:
    handle = client.get_workflow_handle_for(Cart.run, workflow_id)
    await handle.signal(Cart.release)
    assert await update.result() == "confirmed apple"
    # The same update again, and again when the workflow has closed: the same outcome.
    assert await handle.execute_update(Cart.add, "pear", id="add-apple") == "confirmed apple"
    await handle.signal(Cart.close)
    assert await handle.result() == ["apple"]
    assert await handle.get_update_handle_for(Cart.add, "add-apple").result() == "confirmed apple"


async def test_a_worker_dies_between_acceptance_and_completion(client: Client) -> None:
    async with worker(client):
        update = await start_and_add(client, "cart")
    async with worker(client):
        await finish(client, "cart", update)


async def test_the_server_restarts_between_acceptance_and_completion(durable_database: str, free_port: int) -> None:
    settings = ServerSettings(grpc_port=free_port, metrics_port=None, database=durable_database)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        async with worker(client):
            update = await start_and_add(client, "cart")
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        update = client.get_workflow_handle("cart").get_update_handle_for(Cart.add, "add-apple")
        async with worker(client):
            await finish(client, "cart", update)


async def test_an_update_that_nobody_has_taken_outlives_the_server(durable_database: str, free_port: int) -> None:
    """It was in memory only; the client asks again by itself."""
    settings = ServerSettings(grpc_port=free_port, metrics_port=None, database=durable_database)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        handle = await client.start_workflow(Cart.run, id="cart", task_queue=QUEUE)
        await handle.signal(Cart.release)
        call = asyncio.create_task(handle.execute_update(Cart.add, "apple", id="add-apple"))
        await asyncio.sleep(0)
    async with Server(settings) as server, worker(await Client.connect(server.grpc_address)):
        assert await call == "confirmed apple"


async def test_a_validator_refuses_and_leaves_no_trace(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Cart.run, id="cart", task_queue=QUEUE)

        async def length() -> int:
            events = (await handle.fetch_history()).events
            return len(events) if len(events) >= 4 else 0

        before = await until(length)
        for _ in range(3):
            with pytest.raises(WorkflowUpdateFailedError) as raised:
                await handle.execute_update(Cart.add, "")
            assert isinstance(raised.value.cause, ApplicationError)
            assert raised.value.cause.type == "Nameless"
        assert await length() == before
        await handle.terminate()


async def test_ten_updates_at_once(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Cart.run, id="cart", task_queue=QUEUE)
        await handle.signal(Cart.release)
        items = [f"item {n}" for n in range(10)]
        answers = await asyncio.gather(*(handle.execute_update(Cart.add, item) for item in items))
        assert answers == [f"confirmed {item}" for item in items]
        await handle.signal(Cart.close)
        assert sorted(await handle.result()) == items


async def test_update_with_start(client: Client) -> None:
    async with worker(client):

        def start() -> WithStartWorkflowOperation[Cart, list[str]]:
            return WithStartWorkflowOperation(
                Cart.run, id="cart", task_queue=QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
            )

        updates = [
            await client.start_update_with_start_workflow(
                Cart.add, item, wait_for_stage=WorkflowUpdateStage.ACCEPTED, start_workflow_operation=start()
            )
            for item in ("apple", "pear")
        ]
        handle = client.get_workflow_handle_for(Cart.run, "cart")
        await handle.signal(Cart.release)
        assert [await update.result() for update in updates] == ["confirmed apple", "confirmed pear"]
        await handle.terminate()


async def test_updates_while_the_workflow_continues_as_new(client: Client) -> None:
    """Each is answered, by whichever run it meets."""
    async with Worker(client, task_queue=QUEUE, workflows=[Relay], workflow_runner=UnsandboxedWorkflowRunner()):
        handle = await client.start_workflow(Relay.run, [], id="relay", task_queue=QUEUE)
        items = [f"item {n}" for n in range(8)]
        assert await asyncio.gather(*(handle.execute_update(Relay.take, item) for item in items)) == items
        assert sorted(await handle.result()) == items
