"""The database goes away under a running server and comes back: clients see UNAVAILABLE and nothing else, and lose nothing."""

from __future__ import annotations

import asyncio
import random
import resource
from pathlib import Path

import pytest
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, StartWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.app import Server
from perdure.settings import ServerSettings
from perdure.store import create_store
from perdure.testing.faulty_store import FaultyStore, StoreFaults
from tests.support.journeys import QUEUE, Executions, has_moved, travel
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess
from tests.support.waiting import until

JOURNEYS = 20


async def refused(client: Client, *, reads: bool) -> None:
    """Wait until calls are refused with UNAVAILABLE: starts, and reads too where the database cannot be read."""

    async def start_is_refused() -> bool:
        request = StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id="nobody-runs-it",
            workflow_type=WorkflowType(name="Nobody"),
            task_queue=TaskQueue(name=f"{QUEUE}-nobody"),
            request_id=random.randbytes(8).hex(),
            workflow_id_conflict_policy=WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
        )
        try:
            await client.workflow_service.start_workflow_execution(request, retry=False)
        except RPCError as error:
            if error.status != RPCStatusCode.UNAVAILABLE:
                raise
            return True
        return False

    await until(start_is_refused)
    if reads:
        request = DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id="not-in-memory"))
        with pytest.raises(RPCError) as error:
            await client.workflow_service.describe_workflow_execution(request, retry=False)
        assert error.value.status == RPCStatusCode.UNAVAILABLE


@pytest.mark.slow
@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "crashed"])
async def test_postgresql_goes_away_and_comes_back(own_postgres_server: PostgresServer, crash: bool) -> None:
    await own_postgres_server.run("CREATE DATABASE perdure")
    with ServerProcess(own_postgres_server.url("perdure")) as server:
        client = await Client.connect(server.address)

        async def stop_and_start(executions: Executions) -> None:
            for _ in range(2):
                await has_moved(executions, JOURNEYS)
                await asyncio.to_thread(own_postgres_server.stop, crash=crash)
                await refused(client, reads=True)
                await asyncio.to_thread(own_postgres_server.start)

        await travel(client, JOURNEYS, stop_and_start)
        assert server.stop() == 0
        assert server.said.count("cannot load") < JOURNEYS // 2  # the log is for people
        assert "Traceback" not in server.said


@pytest.mark.slow
async def test_the_disk_of_sqlite_fills_up_and_has_space_again(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    with ServerProcess(str(path)) as server:
        client = await Client.connect(server.address)
        assert server.process is not None
        process = server.process.pid
        _, most = resource.prlimit(process, resource.RLIMIT_FSIZE)

        async def fill_and_free(executions: Executions) -> None:
            for _ in range(2):
                await has_moved(executions, JOURNEYS)
                # No file may grow: for the server that is a disk that takes no more.
                resource.prlimit(process, resource.RLIMIT_FSIZE, (path.with_name("perdure.db-wal").stat().st_size, most))
                await refused(client, reads=False)
                resource.prlimit(process, resource.RLIMIT_FSIZE, (most, most))

        await travel(client, JOURNEYS, fill_and_free)
        assert server.stop() == 0
        assert "Traceback" not in server.said


@pytest.mark.slow
async def test_commits_and_reads_that_fail_now_and_then(durable_database: str) -> None:
    base = create_store(durable_database)
    await base.open()
    faults = StoreFaults(commit_fails=0.15, commit_unknown=0.15, read_fails=0.1, delay=0.002, lost=0.2)
    store = FaultyStore(base, random.Random(7), StoreFaults())
    try:
        async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=durable_database), store=store) as server:

            async def has_failed() -> bool:
                return store.counts.failed > 2 and store.counts.unknown > 2

            async def fail(executions: Executions) -> None:
                store.faults = faults
                await has_moved(executions, 3 * JOURNEYS)
                await until(has_failed)
                store.faults = StoreFaults()

            await travel(await Client.connect(server.grpc_address), JOURNEYS, fail)
    finally:
        await base.close()
