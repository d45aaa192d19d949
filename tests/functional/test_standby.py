"""Partitions and leases (issue "all of workflow semantics"): one server per store, a standby that takes over, any number of partitions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.settings import ServerSettings
from perdure.store.protocol import StoreOpenError
from tests.support.server_process import ServerProcess

QUEUE = "standby"


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


@pytest.mark.slow
async def test_standby_takes_over_from_a_killed_server(session_postgres_url: str) -> None:
    """Workers and clients stay as they are: every workflow that the first server acknowledged is finished by the second, each step once."""
    first = ServerProcess(session_postgres_url)
    first.start()
    # The standby listens where the first one did, as behind one address.
    standby = ServerProcess(session_postgres_url, "--standby", port=first.port)
    waiting = asyncio.create_task(asyncio.to_thread(standby.start))
    try:
        client = await Client.connect(first.address)
        ids = [f"takeover-{number}" for number in range(20)]
        async with steps_worker(client):
            for workflow_id in ids:
                await client.start_workflow(TenSteps.run, id=workflow_id, task_queue=QUEUE)
            assert not waiting.done()
            first.kill()
            await asyncio.wait_for(waiting, 30)
            await finish_all(client, ids)
    finally:
        first.stop()
        standby.stop()


async def test_second_server_is_refused(tmp_path: Path) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=str(tmp_path / "perdure.db"))
    async with Server(settings):
        with pytest.raises(StoreOpenError, match="in use by"):
            async with Server(settings):
                pass


@pytest.mark.slow
async def test_second_server_on_postgresql_is_refused(postgres_url: str) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=postgres_url)
    async with Server(settings):
        with pytest.raises(StoreOpenError, match="in use by another server"):
            async with Server(settings):
                pass


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 7)])
async def test_number_of_partitions_may_change(tmp_path: Path, before: int, after: int) -> None:
    """Nothing outside of the engine knows how many partitions there are: not the workflows in the store either."""
    ids = [f"moved-{number}" for number in range(12)]
    database = str(tmp_path / "perdure.db")
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=database, partitions=before)) as server:
        client = await Client.connect(server.grpc_address)
        for workflow_id in ids:
            await client.start_workflow(TenSteps.run, id=workflow_id, task_queue=QUEUE)
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=database, partitions=after)) as server:
        assert len(server.core.engine.partitions) == after
        client = await Client.connect(server.grpc_address)
        async with steps_worker(client):
            await finish_all(client, ids)
