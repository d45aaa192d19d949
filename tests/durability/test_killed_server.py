"""The server is killed with SIGKILL, again and again, under load from the official SDK: nothing that was acknowledged is lost, nothing
happens twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.support.journeys import STEPS, Executions, Journey, check_histories, has_moved, start, travel, worker
from tests.support.server_process import ServerProcess
from tests.support.waiting import until


async def go_through_kills(server: ServerProcess, kills: int, journeys: int) -> None:
    async def kill_and_restart(executions: Executions) -> None:
        for _ in range(kills):
            await has_moved(executions, journeys)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    await travel(await Client.connect(server.address), journeys, kill_and_restart)


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
