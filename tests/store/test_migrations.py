"""The tables of an older version are brought up to date when a store is opened: all of it or nothing, once."""

from __future__ import annotations

import asyncio

import pytest

from perdure.store import create_store, schema
from perdure.store.postgres_driver import connect
from perdure.store.protocol import StoreInUse, StoreOpenError
from perdure.store.schema import Migration
from tests.store.samples import KIND, NAMESPACE, NOW, OWNER, SECOND, Writer, header
from tests.support.waiting import until

LATER = schema.LATEST + 1


def upgrade(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """From now on this program knows one version more."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, Migration(LATER, statements)))
    monkeypatch.setattr(schema, "LATEST", LATER)


async def write(location: str) -> None:
    store = create_store(location)
    await store.open()
    writer = await Writer.open(store)
    await writer.commit(headers=[header(1)])
    await store.release_lease(writer.lease)
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


async def test_tables_do_not_change_under_a_server_that_uses_them(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    older = create_store(postgres_url)
    await older.open()
    writer = await Writer.open(older)
    upgrade(monkeypatch, "ALTER TABLE headers ADD COLUMN added BIGINT")
    newer = create_store(postgres_url)
    with pytest.raises(StoreInUse, match=rf"in use by another server \({OWNER}\), and its tables have to change"):
        await newer.open()
    await writer.commit(headers=[header(1)])
    assert await older.renew_lease(writer.lease, NOW, NOW + SECOND)
    await older.release_lease(writer.lease)
    await newer.open()
    assert await older.read_lease(0) is not None
    # The older one cannot come back: it does not know the tables any more.
    with pytest.raises(StoreOpenError, match=f"has schema version {LATER}, but this version of Perdure knows only up to {LATER - 1}"):
        await older.acquire_lease(0, OWNER, NOW, NOW + SECOND)
    assert await newer.acquire_lease(0, OWNER, NOW, NOW + SECOND) is not None
    await newer.close()
    await older.close()


async def test_a_lease_is_not_taken_while_the_tables_change(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older standby asks for the lease in the middle of the migration: it gets it neither before nor after."""
    await write(postgres_url)
    older = create_store(postgres_url)
    await older.open()
    upgrade(monkeypatch, "ALTER TABLE metadata ADD COLUMN added BIGINT", "SELECT pg_sleep(0.3)")
    newer = create_store(postgres_url)
    opening = asyncio.create_task(newer.open())
    watcher = await connect(postgres_url, {})

    async def is_changing() -> bool:
        return bool(await watcher.fetch("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(0.3)' AND state = 'active'"))

    await until(is_changing)
    with pytest.raises(StoreOpenError, match="has schema version"):
        await older.acquire_lease(0, OWNER, NOW, NOW + SECOND)
    await opening
    for store in (older, newer):
        await store.close()
    await watcher.close()
