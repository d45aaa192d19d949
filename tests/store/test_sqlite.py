"""What only a SQLite file has: a lock, a log, a shape on disk, processes that are killed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from perdure.store import create_store, schema
from perdure.store.protocol import JournalRow, StoreError, StoreOpenError
from perdure.store.sqlite import LARGE_COMMIT, SPARE_PAGES
from tests.store.samples import KIND, NAMESPACE, NOW, SECOND, Writer, header, journal_row
from tests.support.waiting import until

PROJECT = Path(__file__).parents[2]


@contextmanager
def committing(path: Path) -> Generator[subprocess.Popen[str]]:
    """A process that commits; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.committing", str(path)],
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_lines(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


async def refusal(path: Path) -> str:
    """Why this file cannot be opened."""
    store = create_store(str(path))
    with pytest.raises(StoreOpenError) as refused:
        await store.open()
    return str(refused.value)


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    store = create_store(path)
    await store.open()
    await (await Writer.open(store)).commit(headers=[header(1)], journal=[journal_row(1, 1)])
    await store.close()
    await store.open()
    assert await store.find_current(NAMESPACE, KIND, "order-1") == header(1)
    assert await store.read_journal(1) == [journal_row(1, 1)]
    await store.close()


async def test_acknowledged_commits_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    last = 0
    for turn in range(3):
        with committing(path) as process:
            acknowledged = read_lines(process, 20 + 15 * turn)
            process.kill()
            rest, _ = process.communicate()
        assert acknowledged[0] == last + 1
        last = max([*acknowledged, *map(int, rest.split())])
        store = create_store(str(path))
        await store.open()
        count = await store.count_headers(NAMESPACE, KIND)
        assert last <= count <= last + 1  # one more may have been on its way
        for uid in range(1, count + 1):
            assert await store.read_journal(uid) == [journal_row(uid, 1), journal_row(uid, 2)]
        # The one that was killed had a lease that has not expired; it must not hold up its successor.
        assert await store.acquire_lease(0, "successor", NOW, NOW + SECOND) is not None
        last = count
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with committing(path) as first:
        read_lines(first, 1)
        assert f"in use by process {first.pid}" in await refusal(path)
        with committing(path) as second:
            assert second.wait(30) != 0
            assert second.stderr is not None
            assert f"in use by process {first.pid}" in second.stderr.read()
        assert read_lines(first, 1)  # and the first one goes on


async def test_a_second_store_in_the_same_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = create_store(str(path))
    await store.open()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for same in (path, link):
        message = await refusal(same)
        assert "in use by process" in message
        assert "PostgreSQL" in message
    await store.close()
    await store.open()
    await store.close()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(schema.CREATE_VERSION)
        connection.execute(f"INSERT INTO {schema.VERSION_TABLE} VALUES ({schema.LATEST + 1})")
        connection.commit()
    before = path.read_bytes()
    message = await refusal(path)
    assert f"schema version {schema.LATEST + 1}" in message
    assert "newer Perdure" in message
    assert path.read_bytes() == before


def test_migrations_are_numbered_without_a_hole() -> None:
    assert [migration.version for migration in schema.MIGRATIONS] == list(range(1, schema.LATEST + 1))


@pytest.mark.parametrize("start", ["no file", "empty file", "version 0"])
async def test_a_database_without_tables_is_migrated(tmp_path: Path, start: str) -> None:
    path = tmp_path / "a.db"
    if start == "empty file":
        path.touch()
    if start == "version 0":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(schema.CREATE_VERSION)
            connection.execute(schema.INSERT_VERSION)
            connection.commit()
    store = create_store(str(path))
    for _ in range(2):
        await store.open()
        await (await Writer.open(store)).commit(headers=[header(1)])
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(schema.READ_VERSION).fetchall() == [(schema.LATEST,)]


async def test_files_that_are_something_else_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is no database, but long enough to look like something" * 20)
    assert "not a database" in await refusal(text)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE schema_version (a)")
    before = other.read_bytes()
    assert "another program" in await refusal(other)
    assert other.read_bytes() == before


async def test_paths_that_cannot_be(tmp_path: Path) -> None:
    assert f"The folder {tmp_path / 'none'} of the database file" in await refusal(tmp_path / "none" / "a.db")
    assert "is a folder" in await refusal(tmp_path)


async def test_pragmas_can_be_overridden(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "a.db"), sqlite_pragmas={"Synchronous": "1", "page_size": "8192"})
    await store.open()
    await store.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (8192,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for pragmas in ({"synchronous; DROP": "1"}, {"synchronous": "1; DROP TABLE headers"}):
        with pytest.raises(StoreOpenError, match="pragma"):
            await create_store(str(tmp_path / "a.db"), sqlite_pragmas=pragmas).open()


async def test_deleting_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = create_store(str(path))
    await store.open()
    writer = await Writer.open(store)
    for uid in range(1, 101):
        await writer.commit(headers=[header(uid)], journal=_large(uid))
    await store.close()
    full = path.stat().st_size
    await store.open()
    writer = await Writer.open(store)
    await writer.commit(deleted=list(range(1, 101)))
    with closing(sqlite3.connect(path)) as connection:

        async def few_free_pages() -> bool:
            return connection.execute("PRAGMA freelist_count").fetchone()[0] <= SPARE_PAGES

        await until(few_free_pages)
    await store.close()
    assert full > 20_000_000
    assert path.stat().st_size < 200_000 + SPARE_PAGES * 4096


def _large(uid: int) -> list[JournalRow]:
    return [JournalRow(uid, number, 1, 0, b"e" * 50_000, b"") for number in range(1, 6)]


async def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = create_store(str(path), sqlite_pragmas={"synchronous": "OFF"})
    await store.open()
    writer = await Writer.open(store)
    for uid in range(1, 4001):
        await writer.commit(headers=[header(uid)], journal=[journal_row(uid, 1)])
    assert path.with_name("a.db-wal").stat().st_size < 64_000_000

    async def checkpoint_came() -> bool:
        return path.stat().st_size > 1_000_000

    await until(checkpoint_came)
    await store.close()


async def test_a_loop_that_never_rests_does_not_starve_commits(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "a.db"))
    await store.open()
    writer = await Writer.open(store)
    resting = False

    async def never_rest() -> None:
        while not resting:
            until = time.perf_counter() + 0.000_1
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    busy = asyncio.create_task(never_rest())
    async with asyncio.timeout(30):  # a second or two; many times that when the loop does not stand back for the writer
        for uid in range(1, 201):
            await writer.commit(headers=[header(uid)])
    resting = True
    await busy
    await store.close()


async def test_a_full_disk_refuses_commits_and_nothing_else(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "a.db"), sqlite_pragmas={"max_page_count": "100"})
    await store.open()
    writer = await Writer.open(store)
    await writer.commit(headers=[header(1)])
    with pytest.raises(StoreError, match="full"):
        await writer.commit(headers=[header(2)], journal=[*_large(2), JournalRow(2, 9, 1, 0, b"e" * 1_000_000, b"")])
    assert await store.find_current(NAMESPACE, KIND, "order-2") is None
    await writer.commit(headers=[header(2)])
    await store.close()


def test_the_other_driver_is_not_imported() -> None:
    program = "import sys; from perdure.store import create_store; create_store(''); sys.exit('asyncpg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(PROJECT / "src")}, check=False).returncode == 0


async def test_a_cancelled_caller_does_not_hurt_the_writer(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "a.db"))
    await store.open()
    writer = await Writer.open(store)
    large = [header(uid) for uid in range(1, LARGE_COMMIT + 2)]  # so many go to the thread
    task = asyncio.create_task(writer.commit(headers=large))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.commit(headers=[header(len(large) + 1)])
    assert await store.count_headers(NAMESPACE, KIND) == len(large) + 1
    await store.close()
