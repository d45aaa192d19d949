"""SQLite on a disk that fails, is full or is used by another program: what happened is found out, and people are told what to do."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.store import create_store
from perdure.store.protocol import CommitUnknown, JournalRow, StoreError, StoreOpenError
from tests.store.samples import Writer, header, journal_row


class FailingDisk(sqlite3.Connection):
    """Reports an I/O error at the end of the next transaction, which becomes durable nevertheless, or not."""

    next_commit: bool | None = None
    """Whether the next one becomes durable; None: nothing fails."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT" and FailingDisk.next_commit is not None:
            happens, FailingDisk.next_commit = FailingDisk.next_commit, None
            if happens:
                super().execute(sql)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(sql, parameters)


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Generator[type[FailingDisk]]:
    connect = sqlite3.connect

    def connect_to_failing(database: str, **options: Any) -> sqlite3.Connection:
        return connect(database, factory=FailingDisk, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_to_failing)
    yield FailingDisk
    FailingDisk.next_commit = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    store = create_store(str(path))
    await store.open()
    writer = await Writer.open(store)
    await writer.commit(headers=[header(1)], journal=[journal_row(1, 1)])
    yield writer
    await store.close()


async def commit_number(writer: Writer) -> int:
    lease = await writer.store.read_lease(0)
    assert lease is not None
    return lease.commit_number


@contextmanager
def full_disk(path: Path) -> Generator[None]:
    """No file of this process may become larger than the database's log is now; in use by the tests' own files is much less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(f"{path.name}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("happens", [True, False])
async def test_an_error_at_the_end_of_a_commit_leaves_it_in_doubt(
    failing_disk: type[FailingDisk], writer: Writer, path: Path, happens: bool
) -> None:
    failing_disk.next_commit = happens
    with pytest.raises(CommitUnknown, match=r"disk I/O error.*look at the system's log"):
        await writer.commit(headers=[header(2)], journal=[journal_row(2, 1)])
    assert await commit_number(writer) == (2 if happens else 1)
    assert await writer.store.read_journal(2) == ([journal_row(2, 1)] if happens else [])
    await writer.commit(headers=[header(3)], journal=[journal_row(3, 1)])
    await writer.store.close()
    await writer.store.open()
    assert await commit_number(writer) == 3


async def test_a_commit_that_the_disk_refused_cannot_come_back(writer: Writer, path: Path) -> None:
    large = [JournalRow(2, number, 1, 0, b"e" * 500_000, b"") for number in range(1, 5)]
    await writer.commit(headers=[header(2)], journal=large)
    with full_disk(path):
        with pytest.raises(CommitUnknown, match="limits on the size of files"):
            await writer.commit(headers=[header(3)], journal=[journal_row(3, 1)])
        assert await commit_number(writer) == 2  # the answer comes although the disk is no better
        assert await writer.store.read_journal(3) == []
        assert await writer.store.find_current("namespace-1", "workflow", "order-1") == header(1)
    log = path.with_name("a.db-wal")
    before = log.stat().st_size
    assert await commit_number(writer) == 2
    assert log.stat().st_size > before  # over what was left of it
    await writer.commit(headers=[header(3)], journal=[journal_row(3, 1)])
    assert await commit_number(writer) == 4


async def test_a_full_disk_says_what_to_do(path: Path) -> None:
    store = create_store(str(path), sqlite_pragmas={"max_page_count": "100"})
    await store.open()
    writer = await Writer.open(store)
    with pytest.raises(StoreError, match=r"is full\. Free some space on the disk of the database file"):
        await writer.commit(journal=[JournalRow(2, 9, 1, 0, b"e" * 1_000_000, b"")])
    await store.close()


async def test_another_program_that_writes_is_waited_for_without_holding_up_the_event_loop(writer: Writer, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        committing = asyncio.ensure_future(writer.commit(headers=[header(2)]))
        renewing = asyncio.ensure_future(writer.store.renew_lease(writer.lease, 0, writer.lease.expires_at + 1))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() - begun < 5  # it would wait for its patience of ten seconds, twice
        assert not committing.done()
        other.execute("ROLLBACK")
        await committing
        assert await renewing
    assert await commit_number(writer) == 2


async def test_another_program_that_goes_on_writing_is_named(path: Path) -> None:
    store = create_store(str(path), sqlite_pragmas={"busy_timeout": "50"})
    await store.open()
    writer = await Writer.open(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"database is locked\. Another program is writing to the database file; end that program"):
            await writer.commit(headers=[header(1)])
    await writer.commit(headers=[header(1)])
    assert await commit_number(writer) == 2
    await store.close()
    with pytest.raises(StoreOpenError, match="busy_timeout=soon: it is a whole number of milliseconds"):
        await create_store(str(path), sqlite_pragmas={"busy_timeout": "soon"}).open()


async def test_a_file_that_must_not_be_written_is_refused(path: Path) -> None:
    with pytest.raises(StoreOpenError, match="Allow this user to write to the database file and its folder"):
        await create_store(str(path), sqlite_pragmas={"query_only": "1"}).open()
