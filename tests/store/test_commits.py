"""What a commit writes, and that it is all or nothing."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import pytest
from msgspec.structs import replace

from perdure.settings import LONGEST_INDEXED_ID
from perdure.store import Store
from perdure.store.protocol import Header, JournalRow, SideRow, Snapshot, StoreError
from perdure.store.sql import HEADERS, JOURNAL
from tests.store.samples import KIND, NAMESPACE, NOW, Writer, full_header, header, journal_row


def test_columns_are_the_fields_in_their_order() -> None:
    assert list(HEADERS.columns) == list(Header.__struct_fields__)
    assert list(JOURNAL.columns) == list(JournalRow.__struct_fields__)


async def test_everything_comes_back_as_it_was(writer: Writer) -> None:
    store = writer.store
    rows = [journal_row(7, 1, 1, 3), journal_row(7, 2, 4, 0)]
    await writer.commit(
        headers=[full_header(7)], journal=rows, side=[SideRow(7, "heartbeat", b"\x00\xff")], snapshots=[Snapshot(7, 2, "v1", b"\xfe")]
    )
    assert await store.find_current(NAMESPACE, KIND, "order-7") == full_header(7)
    found = await store.find_run(NAMESPACE, KIND, "order-7", "run-7")
    assert found == full_header(7)
    assert found is not None
    assert (type(found.is_current), type(found.ready), type(found.memo)) == (bool, bool, bytes)
    assert await store.read_journal(7) == rows
    assert await store.read_side(7) == [SideRow(7, "heartbeat", b"\x00\xff")]
    assert await store.read_snapshot(7, "v1") == Snapshot(7, 2, "v1", b"\xfe")


async def test_defaults_come_back_too(writer: Writer) -> None:
    await writer.commit(headers=[header(1)])
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == header(1)


async def test_large_values(writer: Writer) -> None:
    row = replace(journal_row(1, 1), events=b"e" * 5_000_000)
    await writer.commit(headers=[header(1, memo=b"m" * 1_000_000)], journal=[row])
    assert await writer.store.read_journal(1) == [row]


async def test_nothing_is_found_in_an_empty_store(store: Store) -> None:
    assert await store.find_current(NAMESPACE, KIND, "order-1") is None
    assert await store.find_run(NAMESPACE, KIND, "order-1", "run-1") is None
    assert await store.read_journal(1) == []
    assert await store.read_history(1, 1, 10) == []
    assert await store.read_history(1, 1, 10, reverse=True) == []
    assert await store.read_snapshot(1, "v1") is None
    assert await store.read_side(1) == []
    assert await store.count_headers(NAMESPACE, KIND) == 0


async def test_an_empty_commit_only_moves_the_number(writer: Writer) -> None:
    await writer.commit()
    lease = await writer.store.read_lease(0)
    assert lease is not None
    assert lease.commit_number == 1


async def test_a_header_is_overwritten(writer: Writer) -> None:
    await writer.commit(headers=[full_header(1)])
    changed = header(1, status=2, close_at=NOW + 9, task_queue="other", type_name="Renamed", history_length=50)
    await writer.commit(headers=[changed])
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == changed


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 200])
async def test_batches_of_any_size(writer: Writer, count: int) -> None:
    uids = range(1, count + 1)
    await writer.commit(headers=[header(uid) for uid in uids], journal=[journal_row(uid, 1) for uid in uids])
    assert await writer.store.count_headers(NAMESPACE, KIND) == count
    assert await writer.store.read_journal(count) == [journal_row(count, 1)]


async def test_a_header_may_change_while_it_is_committed(writer: Writer) -> None:
    changing = header(1)
    running = asyncio.ensure_future(writer.commit(headers=[changing]))
    await asyncio.sleep(0)
    changing.status = 99
    await running
    stored = await writer.store.find_current(NAMESPACE, KIND, "order-1")
    assert stored is not None
    assert stored.status == 1


async def test_a_duplicate_journal_row_fails_the_whole_commit(writer: Writer) -> None:
    store = writer.store
    await writer.commit(headers=[header(1)], journal=[journal_row(1, 1)])
    before = await store.read_lease(0)
    with pytest.raises(StoreError):
        await writer.commit(
            headers=[header(1, status=2), header(2)],
            journal=[journal_row(2, 1), journal_row(1, 1)],
            side=[SideRow(1, "a", b"1")],
            snapshots=[Snapshot(1, 1, "v1", b"s")],
        )
    assert await store.find_current(NAMESPACE, KIND, "order-1") == header(1)
    assert await store.find_current(NAMESPACE, KIND, "order-2") is None
    assert await store.read_journal(2) == []
    assert await store.read_side(1) == []
    assert await store.read_snapshot(1, "v1") is None
    assert await store.read_lease(0) == before
    await writer.commit(headers=[header(2)], journal=[journal_row(1, 2)])  # and the store goes on


async def test_two_current_runs_fail_the_commit(writer: Writer) -> None:
    await writer.commit(headers=[header(1)])
    with pytest.raises(StoreError):
        await writer.commit(headers=[header(2, business_id="order-1")])
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == header(1)


async def test_a_value_that_does_not_fit_fails_only_its_commit(writer: Writer) -> None:
    with pytest.raises(StoreError):
        await writer.commit(headers=[header(1, history_size=2**63)])
    await writer.commit(headers=[header(1)])
    assert await writer.store.count_headers(NAMESPACE, KIND) == 1


async def test_a_time_that_no_column_holds_is_kept_as_the_last_one(writer: Writer) -> None:
    await writer.commit(headers=[header(1, wake_at=2**64, execution_at=2**65, expire_at=2**63), header(2, wake_at=2**62)])
    found = await writer.store.find_current(NAMESPACE, KIND, "order-1")
    assert found == header(1, wake_at=2**63 - 1, execution_at=2**63 - 1, expire_at=2**63 - 1)
    assert await writer.store.find_current(NAMESPACE, KIND, "order-2") == header(2, wake_at=2**62)


async def test_ids_of_the_longest_that_settings_allow(writer: Writer) -> None:
    """Random, so that the database cannot make them shorter."""
    longest = random.Random(1).randbytes(LONGEST_INDEXED_ID // 2).hex()
    await writer.commit(headers=[header(1, namespace_id=str(UUID(int=1)), business_id=longest, run_id=str(UUID(int=2)))])
    assert await writer.store.find_current(str(UUID(int=1)), KIND, longest) is not None


async def test_a_run_takes_the_place_of_another(writer: Writer) -> None:
    store = writer.store
    await writer.commit(headers=[header(1)])
    second = header(2, business_id="order-1")
    await writer.commit(superseded=[1], headers=[second])
    assert await store.find_current(NAMESPACE, KIND, "order-1") == second
    assert await store.find_run(NAMESPACE, KIND, "order-1", "run-1") == header(1, is_current=False)


@pytest.mark.parametrize("named", [[], [1]])
async def test_a_run_takes_the_place_of_one_that_changes_too(writer: Writer, named: list[int]) -> None:
    await writer.commit(headers=[header(1)])
    closed = header(1, is_current=False, status=6, close_at=NOW)
    second = header(2, business_id="order-1")
    await writer.commit(superseded=named, headers=[second, closed])
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == second
    assert await writer.store.find_run(NAMESPACE, KIND, "order-1", "run-1") == closed


async def test_many_successions_in_one_commit(writer: Writer) -> None:
    old = range(1, 21)
    await writer.commit(headers=[header(uid) for uid in old])
    await writer.commit(superseded=list(old), headers=[header(uid + 100, business_id=f"order-{uid}") for uid in old])
    for uid in old:
        current = await writer.store.find_current(NAMESPACE, KIND, f"order-{uid}")
        assert current is not None
        assert current.uid == uid + 100


async def test_the_last_of_several_versions_counts(writer: Writer) -> None:
    await writer.commit(
        headers=[header(1), header(1, status=2), header(2)],
        side=[SideRow(1, "a", b"1"), SideRow(1, "a", b"2"), SideRow(1, "b", b"3"), SideRow(1, "b", None)],
        snapshots=[Snapshot(1, 1, "v1", b"1"), Snapshot(1, 2, "v2", b"2")],
    )
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == header(1, status=2)
    assert await writer.store.read_side(1) == [SideRow(1, "a", b"2")]
    assert await writer.store.read_snapshot(1, "v1") is None
    assert await writer.store.read_snapshot(1, "v2") == Snapshot(1, 2, "v2", b"2")


async def test_side_rows_are_overwritten_and_deleted(writer: Writer) -> None:
    await writer.commit(side=[SideRow(1, "b", b"1"), SideRow(1, "a", b"1"), SideRow(2, "a", b"other")])
    assert await writer.store.read_side(1) == [SideRow(1, "a", b"1"), SideRow(1, "b", b"1")]
    await writer.commit(side=[SideRow(1, "a", b"2"), SideRow(1, "b", None), SideRow(1, "never there", None)])
    assert await writer.store.read_side(1) == [SideRow(1, "a", b"2")]
    assert await writer.store.read_side(2) == [SideRow(2, "a", b"other")]


async def test_a_deleted_execution_leaves_nothing(writer: Writer) -> None:
    store = writer.store
    for uid in (1, 2):
        await writer.commit(
            headers=[header(uid)], journal=[journal_row(uid, 1)], side=[SideRow(uid, "a", b"1")], snapshots=[Snapshot(uid, 1, "v1", b"s")]
        )
    await writer.commit(deleted=[1, 77])
    assert await store.find_run(NAMESPACE, KIND, "order-1", "run-1") is None
    assert await store.read_journal(1) == []
    assert await store.read_side(1) == []
    assert await store.read_snapshot(1, "v1") is None
    assert await store.find_current(NAMESPACE, KIND, "order-2") == header(2)
    assert await store.read_journal(2) == [journal_row(2, 1)]
    assert await store.read_side(2) == [SideRow(2, "a", b"1")]


async def test_a_deleted_run_makes_room_in_the_same_commit(writer: Writer) -> None:
    await writer.commit(headers=[header(1)], journal=[journal_row(1, 1)])
    second = header(2, business_id="order-1")
    await writer.commit(
        deleted=[1], superseded=[1], headers=[header(1, status=2), second], journal=[journal_row(1, 2)], side=[SideRow(1, "a", b"1")]
    )
    assert await writer.store.find_current(NAMESPACE, KIND, "order-1") == second
    assert await writer.store.find_run(NAMESPACE, KIND, "order-1", "run-1") is None
    assert await writer.store.read_journal(1) == []
    assert await writer.store.read_side(1) == []


async def test_commits_of_several_partitions_at_once(store: Store) -> None:
    writers = [await Writer.open(store, partition) for partition in range(4)]

    async def fill(writer: Writer) -> None:
        for number in range(25):
            uid = number * 4 + writer.lease.partition + 1
            await writer.commit(headers=[header(uid)], journal=[journal_row(uid, 1)])
            assert await store.find_current(NAMESPACE, KIND, f"order-{uid}") == header(uid)

    await asyncio.gather(*(fill(writer) for writer in writers))
    assert await store.count_headers(NAMESPACE, KIND) == 100


async def test_after_closing_it_says_so(writer: Writer) -> None:
    await writer.store.close()
    with pytest.raises(StoreError):
        await writer.commit(headers=[header(1)])
    with pytest.raises(StoreError):
        await writer.store.find_current(NAMESPACE, KIND, "order-1")
    with pytest.raises(StoreError):
        await writer.store.count_headers(NAMESPACE, KIND)
