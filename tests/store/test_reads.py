"""Finding executions and reading their journals."""

from __future__ import annotations

import pytest

from perdure.store import Store
from perdure.store.protocol import SLOTS, Header, JournalRow
from tests.store.samples import KIND, NAMESPACE, NOW, Writer, header, journal_row

ALL = range(SLOTS)


async def test_the_journal_from_anywhere(writer: Writer) -> None:
    rows = [journal_row(1, sequence, sequence) for sequence in range(1, 31)]
    await writer.commit(journal=[*rows, journal_row(2, 1)])
    assert await writer.store.read_journal(1) == rows
    assert await writer.store.read_journal(1, 12) == rows[12:]
    assert await writer.store.read_journal(1, 30) == []


def _without_notes(rows: list[JournalRow]) -> list[JournalRow]:
    return [JournalRow(row.uid, row.sequence, row.first_event_id, row.event_count, row.events, b"") for row in rows]


# Events per journal row; rows without events stand first, last, between, in a row.
SHAPES = [[3], [1, 1, 1], [0, 2, 0, 0, 3, 1, 0], [0], [5, 0, 0, 0, 0, 0, 1], [1] * 40, [0, 0, 7] * 9]


@pytest.mark.parametrize("counts", SHAPES, ids=str)
async def test_pages_of_history(writer: Writer, counts: list[int]) -> None:
    rows: list[JournalRow] = []
    next_event = 1
    for sequence, count in enumerate(counts, 1):
        rows.append(journal_row(5, sequence, next_event, count))
        next_event += count
    await writer.commit(journal=[journal_row(4, 1), *rows, journal_row(6, 1)])
    with_events = _without_notes([row for row in rows if row.event_count])
    for event in range(next_event + 2):
        forward = [row for row in with_events if row.first_event_id + row.event_count > event]
        backward = [row for row in reversed(with_events) if row.first_event_id <= event]
        for limit in (1, 2, 100):
            assert await writer.store.read_history(5, event, limit) == forward[:limit]
            assert await writer.store.read_history(5, event, limit, reverse=True) == backward[:limit]


async def test_ready_executions(writer: Writer) -> None:
    headers = [header(uid, slot=uid % 4, ready=uid % 3 == 0) for uid in range(1, 31)]
    await writer.commit(headers=headers)
    ready = [item for item in headers if item.ready]
    find = writer.store.find_ready
    assert await find(ALL, 0, 100) == ready
    assert await find(ALL, 9, 3) == [item for item in ready if item.uid > 9][:3]
    assert await find(range(1, 3), 0, 100) == [item for item in ready if item.slot in (1, 2)]
    assert await find(range(0), 0, 100) == []
    await writer.commit(headers=[header(3, slot=3, ready=False)])
    assert await find(ALL, 0, 100) == ready[1:]


async def test_due_executions(writer: Writer) -> None:
    headers = [header(uid, slot=uid % 4, wake_at=NOW + 100 - uid if uid % 2 else None) for uid in range(1, 21)]
    await writer.commit(headers=headers)
    waking = sorted((item for item in headers if item.wake_at is not None), key=lambda item: item.wake_at or 0)
    find = writer.store.find_due
    assert await find(ALL, NOW + 1000, 100) == waking
    assert await find(ALL, NOW + 90, 100) == [item for item in waking if (item.wake_at or 0) < NOW + 90]
    assert await find(ALL, NOW + 1000, 3) == waking[:3]
    assert await find(range(3, 4), NOW + 1000, 100) == [item for item in waking if item.slot == 3]


async def test_expired_executions(writer: Writer) -> None:
    headers = [header(uid, slot=uid % 4, expire_at=NOW + 100 - uid if uid % 2 else None) for uid in range(1, 21)]
    await writer.commit(headers=headers)
    expiring = sorted((item for item in headers if item.expire_at is not None), key=lambda item: item.expire_at or 0)
    find = writer.store.find_expired
    assert await find(ALL, NOW + 1000, 100) == expiring
    assert await find(ALL, NOW + 90, 100) == [item for item in expiring if (item.expire_at or 0) < NOW + 90]
    assert await find(range(2), NOW + 1000, 2) == [item for item in expiring if item.slot < 2][:2]


async def test_lists_and_counts(writer: Writer) -> None:
    mine = [header(uid, start_at=NOW + uid // 3, close_at=NOW if uid % 2 else None) for uid in range(1, 31)]
    others = [header(100, namespace_id="another"), header(101, kind="schedule")]
    await writer.commit(headers=mine + others)
    store: Store = writer.store
    newest_first = sorted(mine, key=lambda item: (item.start_at, item.uid), reverse=True)
    assert await store.list_headers(NAMESPACE, KIND) == newest_first
    assert await store.list_headers(NAMESPACE, KIND, open_only=True) == [item for item in newest_first if item.close_at is None]
    assert await store.list_headers(NAMESPACE, KIND, open_only=False) == [item for item in newest_first if item.close_at is not None]
    assert await store.count_headers(NAMESPACE, KIND) == 30
    assert await store.count_headers(NAMESPACE, KIND, open_only=True) == 15
    assert await store.count_headers(NAMESPACE, KIND, open_only=False) == 15
    assert await store.count_headers("another", KIND) == 1
    pages: list[Header] = []
    after = None
    while page := await store.list_headers(NAMESPACE, KIND, after=after, limit=4):
        pages += page
        after = (page[-1].start_at, page[-1].uid)
    assert pages == newest_first


async def test_a_business_id_is_found_in_its_namespace_and_kind_only(writer: Writer) -> None:
    await writer.commit(headers=[header(1), header(2, business_id="order-1", namespace_id="another")])
    store = writer.store
    found = await store.find_current("another", KIND, "order-1")
    assert found is not None
    assert found.uid == 2
    assert await store.find_current(NAMESPACE, "schedule", "order-1") is None
    assert await store.find_run(NAMESPACE, KIND, "order-1", "run-2") is None
