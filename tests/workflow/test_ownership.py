"""A server that cannot do its work does not keep the store from another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.core.errors import ApiError, Code
from tests.support.virtual_server import VirtualServer, on_virtual_server

LEASE_SECONDS = 5


async def owner(server: VirtualServer) -> str:
    """Who gets the first partition, if another server asks for it."""
    now = int(asyncio.get_running_loop().time() * 1e9)
    lease = await server.base.acquire_lease(0, "another", now, now + 1)
    return "tested" if lease is None else lease.owner


@pytest.mark.parametrize("dies", ["the writer", "a task of the upkeep"])
def test_a_server_stops_when_a_part_of_it_dies(dies: str) -> None:
    async def test(server: VirtualServer) -> None:
        fenced: list[bool] = []
        server.core.engine.on_fenced = lambda: fenced.append(True)
        (partition,) = server.core.engine.partitions

        def die(*_: Any) -> None:
            raise RuntimeError("planted")

        if dies == "the writer":
            partition.writer._on_durable = die  # pyright: ignore[reportPrivateUsage]
        else:
            partition.delete_expired = die  # type: ignore[method-assign, assignment]
            await server.pass_time(31)
        with pytest.raises(ApiError) as refused:
            await server.start_workflow()
        assert refused.value.code == Code.UNAVAILABLE
        assert fenced == [True]
        assert server.core.engine.has_broken_down
        with pytest.raises(ApiError) as refused:
            await server.start_workflow("other")
        assert refused.value.code == Code.UNAVAILABLE
        await server.pass_time(LEASE_SECONDS + 1)
        assert await owner(server) == "another"

    on_virtual_server(test)


@pytest.mark.parametrize("is_away", [False, True])
def test_leases_are_given_back_all_at_once(is_away: bool) -> None:
    async def test(server: VirtualServer) -> None:
        before = server.clock.elapsed()

        async def never(*_: Any) -> None:
            await asyncio.get_running_loop().create_future()

        if is_away:
            server.base.release_lease = never  # type: ignore[method-assign]
        await server.stop()
        assert server.clock.elapsed() - before < 2e9
        assert await owner(server) == ("tested" if is_away else "another")

    on_virtual_server(test, partitions=8)
