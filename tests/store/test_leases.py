"""Who may write a partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.store import Store
from perdure.store.postgres_driver import Connection, connect
from perdure.store.protocol import Commit, Lease, LeaseLost
from tests.store.samples import NAMESPACE, NOW, SECOND, Writer, acquire, header, journal_row

LEASE = 1000 * SECOND


class Servers:
    """Takes and keeps leases of 1,000 s; makes their time pass."""

    def __init__(self, store: Store, administrator: Connection | None) -> None:
        self.store = store
        self._administrator = administrator
        self._now = NOW

    async def acquire(self, owner: str, partition: int = 0) -> Lease | None:
        return await self.store.acquire_lease(partition, owner, self._now, self._now + LEASE)

    async def renew(self, lease: Lease) -> bool:
        return await self.store.renew_lease(lease, self._now, self._now + LEASE)

    async def pass_time(self, seconds: int) -> None:
        """Where the database's own clock counts, the leases get so much older."""
        self._now += seconds * SECOND
        if self._administrator is not None:
            await self._administrator.execute(f"UPDATE leases SET expires_at = expires_at - {seconds * SECOND}")


@pytest.fixture
async def servers(store: Store, database: str) -> AsyncIterator[Servers]:
    administrator = await connect(database, {"search_path": "perdure"}) if store.is_shared else None
    yield Servers(store, administrator)
    if administrator is not None:
        await administrator.close()


def owned(lease: Lease | None) -> tuple[int, int, str, int] | None:
    """All but its time."""
    return None if lease is None else (lease.partition, lease.epoch, lease.owner, lease.commit_number)


async def test_a_free_partition_is_taken(servers: Servers) -> None:
    assert await servers.store.read_lease(3) is None
    lease = await servers.acquire("a", 3)
    assert owned(lease) == (3, 1, "a", 0)
    assert await servers.store.read_lease(3) == lease


async def test_a_held_partition_is_refused_until_it_expires(servers: Servers) -> None:
    await servers.acquire("a")
    await servers.pass_time(900)
    assert await servers.acquire("b") is None
    await servers.pass_time(101)
    assert owned(await servers.acquire("b")) == (0, 2, "b", 0)


async def test_the_owner_takes_it_again_with_a_new_epoch(servers: Servers) -> None:
    first = await servers.acquire("a")
    assert first is not None
    assert owned(await servers.acquire("a")) == (0, 2, "a", 0)
    assert not await servers.renew(first)


async def test_partitions_are_independent(servers: Servers) -> None:
    assert await servers.acquire("a", 0) is not None
    assert await servers.acquire("b", 1) is not None


async def test_only_one_of_many_gets_it(servers: Servers) -> None:
    leases = await asyncio.gather(*(servers.acquire(f"server-{number}") for number in range(8)))
    assert len([lease for lease in leases if lease is not None]) == 1


async def test_renewing_extends(servers: Servers) -> None:
    lease = await servers.acquire("a")
    assert lease is not None
    await servers.pass_time(900)
    assert await servers.renew(lease)
    await servers.pass_time(900)
    assert await servers.acquire("b") is None
    await servers.pass_time(101)
    assert await servers.acquire("b") is not None
    assert not await servers.renew(lease)


async def test_releasing_lets_the_next_one_in(servers: Servers) -> None:
    lease = await servers.acquire("a")
    assert lease is not None
    await servers.store.release_lease(lease)
    assert not await servers.renew(lease)
    second = await servers.acquire("b")
    assert owned(second) == (0, 2, "b", 0)
    await servers.store.release_lease(lease)  # no longer ours: nothing happens
    assert await servers.store.read_lease(0) == second


async def test_the_commit_number_is_remembered_across_owners(writer: Writer) -> None:
    await writer.commit(headers=[header(1)])
    await writer.commit(headers=[header(2)])
    read = await writer.store.read_lease(0)
    assert read is not None
    assert read.commit_number == 2
    await writer.store.release_lease(writer.lease)
    assert (await acquire(writer.store, owner="b")).commit_number == 2


async def test_a_stale_epoch_writes_nothing(writer: Writer) -> None:
    store = writer.store
    await writer.commit(headers=[header(1)], journal=[journal_row(1, 1)])
    newer = await acquire(store)
    with pytest.raises(LeaseLost):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)], superseded=[1])
    with pytest.raises(LeaseLost):
        await writer.commit(deleted=[1])
    assert await store.find_current(NAMESPACE, "workflow", "order-2") is None
    assert await store.find_current(NAMESPACE, "workflow", "order-1") == header(1)
    assert await store.read_journal(2) == []
    assert await store.read_lease(0) == newer
    await Writer(store, newer).commit(headers=[header(2)])


async def test_a_partition_without_a_lease_cannot_be_written(store: Store) -> None:
    with pytest.raises(LeaseLost):
        await store.commit(Commit(0, 1, 1, headers=[header(1)]))
    assert await store.count_headers(NAMESPACE, "workflow") == 0
