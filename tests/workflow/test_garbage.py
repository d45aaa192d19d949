"""What a workflow's steps leave behind is freed at once: a server that has to search its memory for garbage stands still meanwhile."""

from __future__ import annotations

import gc

from tests.support.activity_calls import complete, complete_workflow, schedule
from tests.support.virtual_server import VirtualServer, on_virtual_server

ACTIVITIES = 40


async def run_activities(server: VirtualServer, count: int) -> None:
    for number in range(count):
        await server.decide(schedule(str(number)))
        await complete(server, await server.activity_task())


def test_steps_leave_no_cycles() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await run_activities(server, 5)
        gc.collect()
        gc.disable()
        try:
            await run_activities(server, ACTIVITIES)
            garbage = gc.collect()
        finally:
            gc.enable()
        assert garbage < ACTIVITIES, f"{garbage / ACTIVITIES:.0f} objects of each activity were held by cycles"
        await server.decide(complete_workflow())

    on_virtual_server(test)
