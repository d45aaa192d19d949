"""A commit whose outcome nobody knows: what is said about it is true."""

from __future__ import annotations

import asyncio

import pytest

from perdure.core.errors import ApiError, Code
from perdure.engine.writer import IN_DOUBT, NOTHING_HAPPENED
from perdure.store.protocol import Commit, CommitUnknown
from tests.support.virtual_server import VirtualServer, on_virtual_server

YEAR = 365 * 24 * 3600 * 1_000_000_000


@pytest.mark.parametrize("happens", [True, False], ids=["happened", "did not happen"])
def test_taken_over_before_the_outcome_is_known(happens: bool) -> None:
    """The new owner has the number of the last commit now: nobody can tell any more."""

    async def test(server: VirtualServer) -> None:
        commit, store = server.base.commit, server.base
        arrived = asyncio.Event()
        go_on = asyncio.Event()

        async def break_off(what: Commit) -> None:
            if happens:
                await commit(what)
            arrived.set()
            await go_on.wait()
            await store.acquire_lease(0, "other", YEAR, 2 * YEAR)
            raise CommitUnknown("the connection broke")

        store.commit = break_off  # type: ignore[method-assign]
        first = asyncio.create_task(server.start_workflow("first"))
        await arrived.wait()
        second = asyncio.create_task(server.start_workflow("second"))
        await server.pass_time(0.1)
        go_on.set()
        for call, message in ((first, IN_DOUBT), (second, NOTHING_HAPPENED)):
            with pytest.raises(ApiError) as refused:
                await call
            assert (refused.value.code, refused.value.message) == (Code.UNAVAILABLE, message)

    on_virtual_server(test)
