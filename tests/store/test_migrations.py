"""The tables of an older version are brought up to date when a store is opened: all of it or nothing, once."""

from __future__ import annotations

import asyncio

import pytest

from perdure.store import create_store, schema
from perdure.store.protocol import StoreOpenError
from perdure.store.schema import Migration
from tests.store.samples import KIND, NAMESPACE, Writer, header

LATER = schema.LATEST + 1


def upgrade(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """From now on this program knows one version more."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, Migration(LATER, statements)))
    monkeypatch.setattr(schema, "LATEST", LATER)


async def write(location: str) -> None:
    store = create_store(location)
    await store.open()
    await (await Writer.open(store)).commit(headers=[header(1)])
    await store.close()


async def test_an_older_database_is_migrated_and_then_refused_by_the_older_program(
    durable_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(durable_database)
    with monkeypatch.context() as patch:
        # Could not be done twice.
        upgrade(patch, "ALTER TABLE metadata ADD COLUMN added BIGINT", "UPDATE headers SET task_queue = 'moved'")
        for _ in range(2):
            store = create_store(durable_database)
            await store.open()
            found = await store.find_current(NAMESPACE, KIND, "order-1")
            assert found is not None
            assert found.task_queue == "moved"
            await store.close()
    with pytest.raises(StoreOpenError, match=f"has schema version {LATER}, but this version of Perdure knows only up to {schema.LATEST}"):
        await create_store(durable_database).open()


async def test_a_migration_that_fails_changes_nothing(durable_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(durable_database)
    with monkeypatch.context() as patch:
        upgrade(patch, "ALTER TABLE metadata ADD COLUMN added BIGINT", "UPDATE nonsense SET a = 1")
        with pytest.raises(StoreOpenError, match="nonsense"):
            await create_store(durable_database).open()
    upgrade(monkeypatch, "ALTER TABLE metadata ADD COLUMN added BIGINT")
    store = create_store(durable_database)
    await store.open()
    assert await store.count_headers(NAMESPACE, KIND) == 1
    await store.close()


async def test_servers_that_start_together_migrate_once(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(postgres_url)
    upgrade(monkeypatch, "ALTER TABLE metadata ADD COLUMN added BIGINT", "SELECT pg_sleep(0.1)")
    stores = [create_store(postgres_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert [await store.count_headers(NAMESPACE, KIND) for store in stores] == [1] * 4
    for store in stores:
        await store.close()
