"""A long journal is not read from its beginning: executions that stay in memory get snapshots, too."""

from __future__ import annotations

from perdure.core.execution import ChainKey
from perdure.engine.live import AnyExecution
from perdure.engine.recorder import HOT_SNAPSHOT_ROWS
from tests.support.activity_calls import schedule, signal
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server


async def loaded(server: VirtualServer) -> AnyExecution:
    key = ChainKey(server.core.namespaces.id_of("default") or "", "workflow", WORKFLOW_ID)
    execution = await server.core.engine.read(key, None)
    assert execution is not None
    return execution


def test_a_run_in_memory_gets_a_snapshot_and_comes_back_from_it() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule())
        for _ in range(HOT_SNAPSHOT_ROWS + 20):
            await signal(server)
        execution = await loaded(server)
        snapshot = await server.base.read_snapshot(execution.uid, execution.kind.snapshot_version)
        assert snapshot is not None
        assert snapshot.sequence == execution.snapshot_sequence >= HOT_SNAPSHOT_ROWS
        before = execution.kind.encode_state(execution.state, deterministic=True)
        await server.restart()
        again = await loaded(server)
        assert again.snapshot_sequence == snapshot.sequence < again.sequence == execution.sequence
        assert again.kind.encode_state(again.state, deterministic=True) == before

    on_virtual_server(test)


def test_a_large_state_gets_them_more_rarely() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(*(schedule(str(number)) for number in range(500)))
        for _ in range(HOT_SNAPSHOT_ROWS):
            await signal(server)
        execution = await loaded(server)
        assert execution.sequence > HOT_SNAPSHOT_ROWS
        assert execution.snapshot_sequence == 0

    on_virtual_server(test)
