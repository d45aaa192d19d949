"""Things to put into a store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.store.protocol import Commit, Header, JournalRow, Lease, Store

NAMESPACE = "namespace-1"
KIND = "workflow"
SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
OWNER = "server-1"


def header(uid: int, **changes: Any) -> Header:
    """The header of an execution whose business id is ``order-<uid>``; changes: fields that differ."""
    plain = Header(
        uid=uid,
        slot=uid % 100,
        namespace_id=NAMESPACE,
        kind=KIND,
        business_id=f"order-{uid}",
        run_id=f"run-{uid}",
        is_current=True,
        type_name="OrderWorkflow",
        task_queue="orders",
        status=1,
        start_at=NOW + uid,
        execution_at=NOW + uid,
        root_business_id=f"order-{uid}",
        root_run_id=f"run-{uid}",
    )
    return replace(plain, **changes)


def full_header(uid: int) -> Header:
    """A header without a field left at its default."""
    return header(
        uid,
        close_at=NOW + 5,
        ready=True,
        wake_at=NOW + 7,
        expire_at=2**62,
        history_length=11,
        history_size=12,
        state_transitions=13,
        parent_business_id="größer",
        parent_run_id="",
        search_attributes='{"Größe": [1, 2]}',
        memo=b"\x00\xff memo",
        details=bytes(range(256)),
    )


def journal_row(uid: int, sequence: int, first_event_id: int = 1, event_count: int = 1) -> JournalRow:
    return JournalRow(uid, sequence, first_event_id, event_count, b"\x00events %d" % sequence, b"notes\xff")


async def acquire(store: Store, partition: int = 0, owner: str = OWNER) -> Lease:
    """Our lease on a partition, for an hour."""
    lease = await store.acquire_lease(partition, owner, NOW, NOW + 3600 * SECOND)
    assert lease is not None
    return lease


class Writer:
    """Commits to a store under one lease, numbering them."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store = store
        self.lease = lease
        self.number = lease.commit_number

    @classmethod
    async def open(cls, store: Store, partition: int = 0, owner: str = OWNER) -> Writer:
        return cls(store, await acquire(store, partition, owner))

    def next(self, **parts: Any) -> Commit:
        self.number += 1
        return Commit(self.lease.partition, self.lease.epoch, self.number, **parts)

    async def commit(self, **parts: Any) -> None:
        """parts: of a Commit."""
        await self.store.commit(self.next(**parts))
