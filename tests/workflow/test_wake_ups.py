"""What has its time is done at its time, whatever was evicted, failed to be written, or happened to the clock meanwhile."""

from __future__ import annotations

from temporalio.api.command.v1 import Command, StartTimerCommandAttributes
from temporalio.api.enums.v1 import CommandType, EventType

from perdure.core.clock import MINUTE, SECOND, to_duration
from perdure.testing.faulty_store import StoreFaults
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server


def start_timer(seconds: float) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=StartTimerCommandAttributes(timer_id="t", start_to_fire_timeout=to_duration(int(seconds * SECOND))),
    )


def evict_all(server: VirtualServer) -> None:
    for partition in server.core.engine.partitions:
        partition.cache.limit, limit = 0, partition.cache.limit
        partition.cache.trim()
        partition.cache.limit = limit
        assert not len(partition.cache)


async def has_fired(server: VirtualServer, workflow_id: str = WORKFLOW_ID) -> bool:
    return EventType.EVENT_TYPE_TIMER_FIRED in [event.event_type for event in await server.history(workflow_id)]


def test_the_timer_of_a_run_whose_eviction_could_not_be_written() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(start_timer(600))
        await server.pass_time(1)
        server.store.faults = StoreFaults(commit_fails=1.0)
        evict_all(server)
        await server.pass_time(0.01)
        assert server.store.counts.failed
        server.store.faults = StoreFaults()
        due = server.clock.now() + 600 * SECOND
        await server.pass_time(610)
        fired = (await server.history())[-2]
        assert fired.event_type == EventType.EVENT_TYPE_TIMER_FIRED
        assert fired.event_time.ToNanoseconds() <= due

    on_virtual_server(test)
