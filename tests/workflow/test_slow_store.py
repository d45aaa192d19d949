"""A store that is slow, or does not answer at all: what waits for it is bounded, everything else goes on, and nothing hangs."""

from __future__ import annotations

import asyncio

from temporalio.api.enums.v1 import EventType, ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError, Code
from perdure.core.limits import Limits
from perdure.engine.live import BASE_BYTES
from perdure.engine.partition import Partition
from tests.support.virtual_server import VirtualServer, on_virtual_server

BOUND = 500_000
OVERSHOOT = 50_000
"""The last intent that is let in may go over the bound."""


def only_partition(server: VirtualServer) -> Partition:
    (partition,) = server.core.engine.partitions
    return partition


async def outcome(server: VirtualServer, workflow_id: str) -> str | ApiError:
    try:
        return await server.start_workflow(workflow_id)
    except ApiError as error:
        return error


def test_intents_beyond_the_bound_are_refused_and_all_goes_on_by_itself() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow("before")
        writer = only_partition(server).writer
        server.store.stall()
        starts = [asyncio.create_task(outcome(server, f"stalled-{number}")) for number in range(200)]
        await server.pass_time(2)
        assert BOUND <= writer.unwritten < BOUND + OVERSHOOT
        refused = [start.result() for start in starts if start.done()]
        waiting = [start for start in starts if not start.done()]
        assert waiting
        assert len(refused) > 100
        for error in refused:
            assert isinstance(error, ApiError)
            assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "System Persistence Max QPS Reached.")
            assert error.detail == ResourceExhaustedFailure(
                cause=ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_PERSISTENCE_LIMIT,
                scope=ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_SYSTEM,
            )
        # Reads and polls are answered meanwhile.
        assert len(await server.history("before")) == 2
        poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="empty"), identity="worker")
        assert not (await server.call("PollWorkflowTaskQueue", poll, 3)).task_token

        server.store.resume()
        for run_id in await asyncio.gather(*waiting):
            assert isinstance(run_id, str)
        assert writer.unwritten == 0
        assert isinstance(await outcome(server, "stalled-199"), str)

    on_virtual_server(test, limits=Limits(unwritten_bytes=BOUND))


def test_below_the_bound_intents_wait_and_are_not_refused() -> None:
    async def test(server: VirtualServer) -> None:
        server.store.stall()
        starts = [asyncio.create_task(outcome(server, f"waits-{number}")) for number in range(20)]
        await server.pass_time(5)
        assert only_partition(server).writer.unwritten < BOUND
        server.store.resume()
        for run_id in await asyncio.gather(*starts):
            assert isinstance(run_id, str)

    on_virtual_server(test, limits=Limits(unwritten_bytes=BOUND))


def test_a_short_burst_waits_for_room_instead_of_being_refused() -> None:
    async def test(server: VirtualServer) -> None:
        server.store.stall()
        starts = [asyncio.create_task(outcome(server, f"burst-{number}")) for number in range(200)]
        await server.pass_time(0.5)
        assert not any(start.done() for start in starts)
        server.store.resume()
        for run_id in await asyncio.gather(*starts):
            assert isinstance(run_id, str)

    on_virtual_server(test, limits=Limits(unwritten_bytes=BOUND))


def test_timers_wait_too() -> None:
    """Nobody waits for what timers do: they have to be held back by themselves."""

    async def test(server: VirtualServer) -> None:
        ids = [f"timer-{number}" for number in range(200)]
        for workflow_id in ids:
            await server.start_workflow(workflow_id, workflow_start_delay=to_duration(60 * SECOND))
        server.store.stall()
        await server.pass_time(70)
        assert BOUND <= only_partition(server).writer.unwritten < BOUND + OVERSHOOT
        server.store.resume()
        await server.pass_time(5)
        for workflow_id in ids:
            assert [event.event_type for event in await server.history(workflow_id)][-1] == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED

    on_virtual_server(test, limits=Limits(unwritten_bytes=BOUND))


def test_a_burst_of_timers_stays_within_the_cache() -> None:
    async def test(server: VirtualServer) -> None:
        partition = only_partition(server)
        partition.cache.limit = 50 * BASE_BYTES
        ids = [f"sleeper-{number}" for number in range(1000)]
        due = server.clock.now() + 3600 * SECOND
        for workflow_id in ids:
            await server.start_workflow(workflow_id, workflow_start_delay=to_duration(due - server.clock.now()))
        assert len(partition.cache) <= 50
        most = 0
        load = partition.loader._load  # pyright: ignore[reportPrivateUsage]

        async def counted(*arguments: object) -> object:
            nonlocal most
            chain = await load(*arguments)  # pyright: ignore[reportArgumentType]
            most = max(most, len(partition.cache))
            return chain

        partition.loader._load = counted  # type: ignore[method-assign]  # pyright: ignore
        await server.pass_time((due - server.clock.now()) / SECOND + 10)
        assert 100 <= most < 300
        assert len(partition.cache) <= 50
        for workflow_id in ids:
            assert len(await server.history(workflow_id)) == 2
            await server.pass_time(0)  # as between calls over a network
        assert len(partition.cache) <= 51  # reads make room, too

    on_virtual_server(test)


def test_a_server_stops_though_its_store_never_answers() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow("before")
        server.store.stall()
        start = asyncio.create_task(outcome(server, "lost"))
        await server.pass_time(0.1)
        begun = server.clock.now()
        await server.core.drain()
        error = await start
        assert isinstance(error, ApiError)
        assert error.code == Code.UNAVAILABLE
        # Answered while there is still time to send the answer.
        assert server.clock.now() - begun < 5 * SECOND
        await server.stop()
        assert server.clock.now() - begun < 10 * SECOND
        assert server.core.engine.has_given_up
        server.store.resume()

    on_virtual_server(test)


def test_a_server_that_stops_waits_for_a_slow_store() -> None:
    async def test(server: VirtualServer) -> None:
        server.store.stall()
        start = asyncio.create_task(outcome(server, "slow"))
        await server.pass_time(0.1)
        await server.core.drain()
        await server.pass_time(1)
        server.store.resume()
        assert isinstance(await start, str)
        await server.stop()
        assert not server.core.engine.has_given_up

    on_virtual_server(test)
