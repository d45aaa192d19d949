"""What has its time is done at its time, whatever was evicted, failed to be written, or happened to the clock meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.api.command.v1 import Command, StartTimerCommandAttributes
from temporalio.api.enums.v1 import CommandType, EventType

from perdure.core.clock import HOUR, MINUTE, NOTICED_WITHIN, SECOND, to_duration
from perdure.core.limits import Limits
from perdure.core.step import Step
from perdure.engine.partition import FAILED_JOB_RETRY
from perdure.features.workflow.jobs import FireTimer, HeartbeatTimeout
from perdure.store.protocol import Header
from perdure.testing.faulty_store import StoreFaults
from tests.support.activity_calls import heartbeat, schedule
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server


def start_timer(seconds: float) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=StartTimerCommandAttributes(timer_id="t", start_to_fire_timeout=to_duration(int(seconds * SECOND))),
    )


def evict_all(server: VirtualServer, *, all_of_them: bool = True) -> None:
    for partition in server.core.engine.partitions:
        partition.cache.limit, limit = 0, partition.cache.limit
        partition.cache.trim()
        partition.cache.limit = limit
        assert not all_of_them or not len(partition.cache)


async def stored(server: VirtualServer) -> Sequence[Header]:
    return await server.base.list_headers(server.core.namespaces.id_of("default") or "", "workflow")


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


@pytest.mark.parametrize("evicted", [False, True], ids=["in memory", "evicted"])
def test_the_clock_steps_forward(evicted: bool) -> None:
    """As after a machine has slept: what came due meanwhile is done at once, and new timers are not late."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(start_timer(3600))
        await server.pass_time(1)
        if evicted:
            evict_all(server)
        server.clock.jump(8 * HOUR)
        await server.start_workflow("other")
        await server.decide(start_timer(2))
        await server.pass_time(2 + NOTICED_WITHIN / SECOND)
        assert {header.business_id: header.ready for header in await stored(server)} == {WORKFLOW_ID: True, "other": True}
        for workflow_id in (WORKFLOW_ID, "other"):
            assert await has_fired(server, workflow_id)

    on_virtual_server(test)


def test_the_clock_steps_back() -> None:
    """By the clock, nothing happens early or late."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(start_timer(600))
        server.clock.jump(-HOUR)
        await server.start_workflow("other")
        await server.decide(start_timer(2))
        await server.pass_time(3)
        assert await has_fired(server, "other")
        await server.pass_time(3600)
        assert not await has_fired(server)
        await server.pass_time(600)
        assert await has_fired(server)

    on_virtual_server(test)


def test_a_heartbeat_after_the_clock_stepped_back_brings_no_timeout_nearer() -> None:
    """The run has left memory in between, so its header leads to the time that the heartbeat before had moved the timeout to."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule(heartbeat_timeout=to_duration(10 * SECOND), start_to_close_timeout=to_duration(2 * HOUR)))
        task = await server.activity_task()
        await server.pass_time(5)
        await heartbeat(server, task)
        due = server.clock.now() + 10 * SECOND
        evict_all(server)
        await server.pass_time(0.1)
        server.clock.jump(-HOUR)
        await heartbeat(server, task)
        await server.restart()
        (activity,) = (await server.state()).activities.values()
        assert [job.at for job in activity.jobs(await server.state()) if isinstance(job, HeartbeatTimeout)] == [due]

    on_virtual_server(test)


@pytest.mark.parametrize("step", [5 * MINUTE, 15 * MINUTE], ids=["still due", "not due any more"])
def test_the_clock_steps_back_while_something_due_is_put_off(step: int) -> None:
    """The pause before the next try has nothing to do with the time of day; the time of what is tried has."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(start_timer(600))
        server.store.stall()
        starts: list[asyncio.Task[str]] = []
        for number in range(40):
            starts.append(asyncio.create_task(server.start_workflow(f"stalled-{number}")))
            await server.pass_time(0.01)
        await server.pass_time(1000)
        assert server.core.engine.partitions[0].writer.is_full
        server.clock.jump(-step)
        server.store.resume()
        await server.pass_time(5)
        await asyncio.gather(*starts, return_exceptions=True)
        assert await has_fired(server) == (step == 5 * MINUTE)
        await server.pass_time(step / SECOND)
        assert await has_fired(server)

    on_virtual_server(test, limits=Limits(unwritten_bytes=500_000))


@pytest.mark.parametrize("has_recorded", [False, True], ids=["before it recorded anything", "half-way"])
def test_a_decision_that_failed_is_tried_again(has_recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug, as it were."""
    failures = 0
    decide = FireTimer.decide

    def fail_at_first(job: FireTimer, step: Step[Any, Any]) -> None:
        nonlocal failures
        failures += 1
        if failures > 2:
            decide(job, step)
            return
        if has_recorded:
            decide(job, step)
        raise RuntimeError("planted")

    async def test(server: VirtualServer) -> None:
        monkeypatch.setattr(FireTimer, "decide", fail_at_first)
        await server.start_workflow()
        await server.decide(start_timer(60))
        await server.pass_time(60.5)
        evict_all(server, all_of_them=has_recorded)
        await server.pass_time(FAILED_JOB_RETRY / SECOND)
        assert failures == 2
        await server.pass_time(FAILED_JOB_RETRY / SECOND)
        assert failures == 3
        assert await has_fired(server)

    on_virtual_server(test)
