"""One store of each kind, for tests that must hold on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.store import Store, create_store
from tests.store.samples import Writer


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """An open, empty store: in memory, in a SQLite file, in PostgreSQL."""
    store = create_store(database)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def writer(store: Store) -> Writer:
    """Holds the lease of partition 0 of that store."""
    return await Writer.open(store)
