"""Random commits, against a model that is as simple as can be, on every kind of store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.store import Store, create_store
from perdure.store.protocol import SLOTS, Commit, Header, JournalRow, SideRow, Snapshot, StoreError
from tests.store.samples import KIND, NOW, Writer, header

UIDS = range(1, 6)
"""Executions 1, 3, 5 are runs of one business id, 2 and 4 of another."""


def run_of_two(uid: int, **changes: Any) -> Header:
    return header(uid, business_id=f"order-{uid % 2}", **changes)


uids = st.sampled_from(UIDS)
moments = st.none() | st.integers(NOW, NOW + 3)
headers = st.builds(
    run_of_two,
    uids,
    is_current=st.booleans(),
    status=st.integers(1, 7),
    ready=st.booleans(),
    close_at=moments,
    wake_at=moments,
    expire_at=moments,
    memo=st.binary(max_size=3),
)
commits = st.builds(
    Commit,
    partition=st.just(0),
    epoch=st.just(1),
    commit_number=st.just(0),
    # Without events, so that the model need not keep event ids in order.
    journal=st.lists(
        st.builds(JournalRow, uids, st.integers(1, 3), st.just(1), st.just(0), st.binary(max_size=3), st.binary(max_size=3)), max_size=3
    ),
    superseded=st.lists(uids, max_size=3),
    headers=st.lists(headers, max_size=4),
    side=st.lists(st.builds(SideRow, uids, st.sampled_from("ab"), st.none() | st.binary(max_size=2)), max_size=4),
    snapshots=st.lists(st.builds(Snapshot, uids, st.integers(1, 3), st.sampled_from(["v1", "v2"]), st.binary(max_size=2)), max_size=2),
    deleted=st.lists(uids, max_size=2, unique=True),
)


@dataclass
class Model:
    """What a store holds."""

    headers: dict[int, Header] = field(default_factory=dict[int, Header])
    journal: dict[tuple[int, int], JournalRow] = field(default_factory=dict[tuple[int, int], JournalRow])
    side: dict[tuple[int, str], SideRow] = field(default_factory=dict[tuple[int, str], SideRow])
    snapshots: dict[int, Snapshot] = field(default_factory=dict[int, Snapshot])

    def after(self, commit: Commit) -> Model | None:
        """The model after a commit; None when the commit must be refused."""
        gone = set(commit.deleted)
        journal = {key: row for key, row in self.journal.items() if row.uid not in gone}
        for row in commit.journal:
            if row.uid not in gone and journal.setdefault((row.uid, row.sequence), row) is not row:
                return None
        written = {uid: replace(one, is_current=one.is_current and uid not in commit.superseded) for uid, one in self.headers.items()}
        written.update({one.uid: one for one in commit.headers})
        written = {uid: one for uid, one in written.items() if uid not in gone}
        current = [one.business_id for one in written.values() if one.is_current]
        if len(set(current)) < len(current):
            return None
        side = self.side | {(row.uid, row.name): row for row in commit.side}
        snapshots = self.snapshots | {one.uid: one for one in commit.snapshots}
        return Model(
            written,
            journal,
            {key: row for key, row in side.items() if row.data is not None and row.uid not in gone},
            {uid: one for uid, one in snapshots.items() if uid not in gone},
        )

    async def compare(self, store: Store, namespace_id: str) -> None:
        newest = sorted(self.headers.values(), key=lambda one: (one.start_at, one.uid), reverse=True)
        assert await store.list_headers(namespace_id, KIND) == newest
        assert await store.count_headers(namespace_id, KIND, open_only=True) == len([one for one in newest if one.close_at is None])
        for business_id in ("order-0", "order-1"):
            current = [one for one in newest if one.is_current and one.business_id == business_id]
            assert await store.find_current(namespace_id, KIND, business_id) == (current[0] if current else None)
        mine = range(SLOTS)
        ready = [one for one in await store.find_ready(mine, 0, 10_000) if one.namespace_id == namespace_id]
        assert ready == sorted((one for one in newest if one.ready), key=lambda one: one.uid)
        due = [one.uid for one in await store.find_due(mine, NOW + 2, 10_000) if one.namespace_id == namespace_id]
        assert sorted(due) == sorted(one.uid for one in newest if one.wake_at is not None and one.wake_at < NOW + 2)
        expired = [one.uid for one in await store.find_expired(mine, NOW + 2, 10_000) if one.namespace_id == namespace_id]
        assert sorted(expired) == sorted(
            one.uid for one in newest if one.expire_at is not None and one.expire_at < NOW + 2 and not one.ready
        )

    async def compare_rows(self, store: Store, uid: int) -> None:
        assert await store.read_journal(uid) == sorted(
            (row for row in self.journal.values() if row.uid == uid), key=lambda row: row.sequence
        )
        assert await store.read_side(uid) == sorted((row for row in self.side.values() if row.uid == uid), key=lambda row: row.name)
        for version in ("v1", "v2"):
            snapshot = self.snapshots.get(uid)
            expected = snapshot if snapshot is not None and snapshot.version == version else None
            assert await store.read_snapshot(uid, version) == expected


def moved(commit: Commit, base: int, namespace_id: str) -> Commit:
    """The same commit for executions of its own: one database serves many examples."""
    return replace(
        commit,
        journal=[replace(row, uid=base + row.uid) for row in commit.journal],
        superseded=[base + uid for uid in commit.superseded],
        headers=[replace(one, uid=base + one.uid, namespace_id=namespace_id) for one in commit.headers],
        side=[replace(row, uid=base + row.uid) for row in commit.side],
        snapshots=[replace(one, uid=base + one.uid) for one in commit.snapshots],
        deleted=[base + uid for uid in commit.deleted],
    )


def test_a_store_behaves_like_the_model(database: str) -> None:
    store = create_store(database)
    examples = count(1)
    # PostgreSQL takes some 10 ms an example, the others less.
    with asyncio.Runner() as runner:

        async def begin() -> Writer:
            await store.open()
            return await Writer.open(store)

        async def play(example: list[Commit]) -> None:
            number = next(examples)
            base, namespace_id, model = number * 10, f"namespace-{number}", Model()
            for plain in example:
                commit = moved(plain, base, namespace_id)
                after = model.after(commit)
                refused = False
                try:
                    await writer.commit(
                        journal=commit.journal,
                        superseded=commit.superseded,
                        headers=commit.headers,
                        side=commit.side,
                        snapshots=commit.snapshots,
                        deleted=commit.deleted,
                    )
                except StoreError:
                    refused = True
                assert refused == (after is None)
                model = after or model
                await model.compare(store, namespace_id)
            for uid in UIDS:
                await model.compare_rows(store, base + uid)

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(commits, min_size=1, max_size=6))
        def examine(example: list[Commit]) -> None:
            runner.run(play(example))

        writer = runner.run(begin())
        try:
            examine()
        finally:
            runner.run(store.close())
