"""A step that turns out to be unwritable is a bug somewhere; it must stay the bug of one call."""

from __future__ import annotations

import pytest

from perdure.core.execution import ChainKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow import notes
from tests.support.task_calls import complete, complete_workflow, poll, signal, types
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server


def test_a_step_that_cannot_be_written_leaves_nothing_behind() -> None:
    """Nor does it take along what trails: here, that the task was started."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        key = ChainKey(server.core.namespaces.id_of("default") or "", "workflow", WORKFLOW_ID)

        def decide(transaction: Transaction) -> None:
            assert transaction.run is not None
            transaction.step(transaction.run).note(notes.StickyChanged("queue", 2**70))

        for _ in range(2):
            with pytest.raises(OverflowError):
                await server.core.engine.transact(key, None, decide)
            await signal(server, name="behind")
        assert (await server.state()).sticky_queue == ""
        await complete(server, task)
        await server.restart()
        assert (await types(server)).count("WORKFLOW_EXECUTION_SIGNALED") == 2
        await complete(server, await poll(server), complete_workflow())

    on_virtual_server(test)
