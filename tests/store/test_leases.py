"""Who may write a partition."""

from __future__ import annotations

import asyncio

import pytest

from perdure.store import Store
from perdure.store.protocol import Commit, Lease, LeaseLost
from tests.store.samples import NAMESPACE, NOW, SECOND, Writer, acquire, header, journal_row

LATER = NOW + 10 * SECOND


async def test_a_free_partition_is_taken(store: Store) -> None:
    assert await store.read_lease(3) is None
    assert await store.acquire_lease(3, "a", NOW, LATER) == Lease(3, 1, "a", LATER, 0)
    assert await store.read_lease(3) == Lease(3, 1, "a", LATER, 0)


async def test_a_held_partition_is_refused_until_it_expires(store: Store) -> None:
    await store.acquire_lease(0, "a", NOW, LATER)
    assert await store.acquire_lease(0, "b", LATER - 1, LATER + SECOND) is None
    assert await store.acquire_lease(0, "b", LATER, LATER + SECOND) == Lease(0, 2, "b", LATER + SECOND, 0)


async def test_the_owner_takes_it_again_with_a_new_epoch(store: Store) -> None:
    first = await store.acquire_lease(0, "a", NOW, LATER)
    second = await store.acquire_lease(0, "a", NOW, LATER + 1)
    assert first is not None
    assert second == Lease(0, 2, "a", LATER + 1, 0)
    assert not await store.renew_lease(first, LATER + 2)


async def test_partitions_are_independent(store: Store) -> None:
    assert await store.acquire_lease(0, "a", NOW, LATER) is not None
    assert await store.acquire_lease(1, "b", NOW, LATER) is not None


async def test_only_one_of_many_gets_it(store: Store) -> None:
    leases = await asyncio.gather(*(store.acquire_lease(0, f"server-{number}", NOW, LATER) for number in range(8)))
    assert len([lease for lease in leases if lease is not None]) == 1


async def test_renewing_extends(store: Store) -> None:
    lease = await store.acquire_lease(0, "a", NOW, LATER)
    assert lease is not None
    assert await store.renew_lease(lease, LATER + SECOND)
    assert await store.acquire_lease(0, "b", LATER, LATER + 2 * SECOND) is None
    assert await store.acquire_lease(0, "b", LATER + SECOND, LATER + 2 * SECOND) is not None
    assert not await store.renew_lease(lease, LATER + 3 * SECOND)


async def test_releasing_lets_the_next_one_in(store: Store) -> None:
    lease = await store.acquire_lease(0, "a", NOW, LATER)
    assert lease is not None
    await store.release_lease(lease)
    assert not await store.renew_lease(lease, LATER)
    assert await store.acquire_lease(0, "b", NOW, LATER) == Lease(0, 2, "b", LATER, 0)
    await store.release_lease(lease)  # no longer ours: nothing happens
    assert await store.read_lease(0) == Lease(0, 2, "b", LATER, 0)


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
