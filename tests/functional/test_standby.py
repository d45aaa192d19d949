"""Partitions and leases (issue "all of workflow semantics"): one server per store, a standby that takes over, any number of partitions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import msgspec
import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.core.clock import SECOND
from perdure.settings import ServerSettings
from perdure.store import schema
from perdure.store.postgres_driver import connect
from perdure.store.protocol import StoreOpenError
from perdure.store.schema import Migration
from tests.support.journeys import STEPS, Executions, has_moved, travel
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy
from tests.support.server_process import ServerProcess
from tests.support.waiting import until

QUEUE = "standby"
JOURNEYS = 30


@activity.defn
async def count(step: int) -> int:
    return step


@workflow.defn
class TenSteps:
    """Waits for a signal half-way, so that a server can be killed in the middle."""

    def __init__(self) -> None:
        self.released = False

    @workflow.signal
    def release(self) -> None:
        self.released = True

    @workflow.run
    async def run(self) -> list[int]:
        done: list[int] = []
        for step in range(10):
            if step == 5:
                await workflow.wait_condition(lambda: self.released)
            done.append(await workflow.execute_activity(count, step, start_to_close_timeout=timedelta(seconds=10)))
        return done


def steps_worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[TenSteps], activities=[count], workflow_runner=UnsandboxedWorkflowRunner())


async def finish_all(client: Client, ids: list[str]) -> None:
    for workflow_id in ids:
        await client.get_workflow_handle(workflow_id).signal(TenSteps.release)
    for workflow_id in ids:
        assert await client.get_workflow_handle(workflow_id).result() == list(range(10))


TAKEOVER_SECONDS = 20.0
"""From the kill to the first answer: a second or two with a file, the rest of the dead server's lease more with PostgreSQL."""


@pytest.mark.slow
async def test_standby_takes_over_from_a_server_killed_under_load(durable_database: str) -> None:
    """Workers and clients stay as they are: nothing that the first server acknowledged is lost or done twice by the second."""
    first = ServerProcess(durable_database)
    first.start()
    # The standby listens where the first one did, as behind one address.
    standby = ServerProcess(durable_database, "--standby", port=first.port)
    waiting = asyncio.create_task(asyncio.to_thread(standby.start))

    async def is_standing_by() -> bool:
        return any("standing by" in line for line in standby.printed)

    async def kill(executions: Executions) -> None:
        await has_moved(executions, JOURNEYS)
        assert not waiting.done()
        assert len(executions.begun) < JOURNEYS * STEPS  # it is under load
        begun = time.monotonic()
        await asyncio.to_thread(first.kill)
        await asyncio.wait_for(waiting, TAKEOVER_SECONDS)
        print(f"taken over after {time.monotonic() - begun:.1f} s")

    try:
        await until(is_standing_by)
        await travel(await Client.connect(first.address), JOURNEYS, kill)
    finally:
        first.stop()
        standby.stop()


@pytest.mark.slow
async def test_standby_outlives_its_database(own_postgres_server: PostgresServer) -> None:
    await own_postgres_server.run("CREATE DATABASE perdure")
    database = own_postgres_server.url("perdure")
    first = ServerProcess(database)
    first.start()
    standby = ServerProcess(database, "--standby", port=first.port)
    waiting = asyncio.create_task(asyncio.to_thread(standby.start))

    def says(text: str) -> Callable[[], Awaitable[bool]]:
        async def is_said() -> bool:
            return any(text in line for line in standby.printed)

        return is_said

    try:
        await until(says("standing by: partition 0 is held"))
        await asyncio.to_thread(own_postgres_server.stop)
        await until(says("standing by: the store is away"))
        await asyncio.to_thread(own_postgres_server.start)
        first.kill()
        await asyncio.wait_for(waiting, TAKEOVER_SECONDS)
        client = await Client.connect(standby.address)
        await client.start_workflow(TenSteps.run, id="later", task_queue=QUEUE)
    finally:
        first.stop()
        standby.stop()


@pytest.mark.slow
async def test_second_server_is_refused(durable_database: str) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=durable_database)
    async with Server(settings):
        with pytest.raises(StoreOpenError, match=r"in use by .*--standby to take over"):
            async with Server(settings):
                pass


@pytest.mark.slow
async def test_a_server_that_lost_its_database_does_not_answer_once_another_may_have_taken_over(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """The database's clock says when the standby may begin; by then the first server must have stopped answering by its own clock."""
    async with AsyncExitStack() as stack:
        proxy = Proxy(postgres_server.port)
        way = await stack.enter_async_context(AsyncExitStack())
        await way.enter_async_context(proxy.running())
        through_proxy = postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        first = await stack.enter_async_context(
            Server(ServerSettings(grpc_port=0, metrics_port=None, database=through_proxy, drain_timeout=SECOND))
        )
        old_client = await Client.connect(first.grpc_address)
        await old_client.start_workflow(TenSteps.run, id="cut-off", task_queue=QUEUE)
        await old_client.get_workflow_handle("cut-off").describe()

        await way.aclose()  # the network between the first server and the database breaks
        standby = ServerSettings(grpc_port=0, metrics_port=None, database=postgres_url, standby=True)
        second = await stack.enter_async_context(Server(standby))
        new_client = await Client.connect(second.grpc_address)
        await new_client.get_workflow_handle("cut-off").terminate()
        request = DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="cut-off"))
        with pytest.raises(RPCError, match="lost touch with its database") as refused:
            await old_client.workflow_service.describe_workflow_execution(request)
        assert refused.value.status == RPCStatusCode.UNAVAILABLE
        answer = await new_client.workflow_service.describe_workflow_execution(request)
        assert answer.workflow_execution_info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED


@pytest.mark.slow
async def test_a_newer_standby_changes_the_tables_only_once_it_is_alone(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=postgres_url)
    watcher = await connect(postgres_url, {"search_path": "perdure"})
    async with AsyncExitStack() as stack:
        older = await stack.enter_async_context(Server(settings))
        client = await Client.connect(older.grpc_address)
        step = Migration(schema.LATEST + 1, ("ALTER TABLE headers ADD COLUMN added BIGINT",))
        monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
        monkeypatch.setattr(schema, "LATEST", step.version)
        newer = Server(msgspec.structs.replace(settings, standby=True))
        entering = asyncio.create_task(newer.__aenter__())

        async def is_standing_by() -> bool:
            return "standing by: PostgreSQL" in caplog.text

        await until(is_standing_by)
        await client.start_workflow(TenSteps.run, id="before", task_queue=QUEUE)
        assert (await watcher.fetch(schema.READ_VERSION))[0][0] == step.version - 1
        assert not entering.done()
        await stack.aclose()
        await asyncio.wait_for(entering, TAKEOVER_SECONDS)
        await newer.__aexit__(None, None, None)
    assert (await watcher.fetch(schema.READ_VERSION))[0][0] == step.version
    await watcher.close()


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 7)])
async def test_number_of_partitions_may_change(durable_database: str, before: int, after: int) -> None:
    """Nothing outside of the engine knows how many partitions there are: not the workflows in the store either."""
    ids = [f"moved-{number}" for number in range(12)]
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=durable_database, partitions=before)) as server:
        client = await Client.connect(server.grpc_address)
        for workflow_id in ids:
            await client.start_workflow(TenSteps.run, id=workflow_id, task_queue=QUEUE)
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=durable_database, partitions=after)) as server:
        assert len(server.core.engine.partitions) == after
        client = await Client.connect(server.grpc_address)
        async with steps_worker(client):
            await finish_all(client, ids)
