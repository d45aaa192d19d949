"""The store in a SQLite file, or in memory.

A file has three connections. The writer's is used by one thread, so that the wait for a slow disk is not the event loop's; while the disk
is quick, the event loop uses it itself (see :mod:`perdure.store.writer_thread`). Point reads run on the event loop with a connection of
their own: they take some 20 µs, less than handing them to a thread would. Long scans and the checkpoints, which copy the write-ahead log
into the database, share one more thread. In memory there is one connection and no thread.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from perdure.store import schema, sql
from perdure.store.file_lock import FileLock, FileLockedError
from perdure.store.protocol import Commit, CommitUnknown, Lease, LeaseLost, StoreError, StoreInUse, StoreOpenError
from perdure.store.sql import CommitRows, DuplicateRowError, Row, SqlStore, Table
from perdure.store.sqlite_errors import IN_DOUBT, advice, primary_code
from perdure.store.writer_thread import WriterThread

Result = TypeVar("Result")

WORDS = {"key": "INTEGER", "bytes": "BLOB", "clustered": " WITHOUT ROWID"}
MEMORY = ":memory:"

# In the order they are applied: page size and vacuum mode must come before the first table. Every one may be overridden.
PRAGMAS = {
    "page_size": "4096",
    "auto_vacuum": "INCREMENTAL",
    "journal_mode": "WAL",
    "synchronous": "FULL",  # a commit that was reported done survives a power cut
    "busy_timeout": "10000",  # milliseconds; only tools beside the server can be in the way
    "cache_size": "-16384",  # KiB
    # Checkpoints run beside the commits, started by CHECKPOINT_PAGES; but a log in constant use never ends completely copied that way, and
    # is never begun anew. So at this length the writer does the last bit itself, which is short because the rest is done.
    "wal_autocheckpoint": "4000",
    "journal_size_limit": "67108864",
}
CHECKPOINT_PAGES = 1000
"""A checkpoint starts when about so many pages were written since the last one."""
SPARE_PAGES = 256
"""So many free pages are kept in the file for what comes next; more are given back to the file system, a slice at a time."""
VACUUM_SLICE = 64

LOCK_RETRY_SECONDS = 0.01
LARGE_COMMIT = 100
"""A commit of more rows goes to the thread whatever the disk is like."""

_LARGEST_INSERT = 64
_SIZES = tuple(1 << power for power in range(_LARGEST_INSERT.bit_length() - 1, -1, -1))


class _Insert:
    """INSERT of any number of rows with few statements: giving up the interpreter lock and asking for it again costs more than a row."""

    def __init__(self, table: Table, ending: str = "") -> None:
        values = "(" + ", ".join("?" * len(table.columns)) + ")"
        self._texts = {size: f"INSERT INTO {table.name} ({table.names}) VALUES " + ", ".join([values] * size) + ending for size in _SIZES}

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        start = 0
        for size in _SIZES:
            while len(rows) - start >= size:
                chunk = rows[start : start + size] if size > 1 else (rows[start],)
                connection.execute(self._texts[size], tuple(chain.from_iterable(chunk)))
                start += size


_INSERT_JOURNAL = _Insert(sql.JOURNAL)
_INSERT_HEADERS = _Insert(sql.HEADERS, sql.HEADERS.upsert)
_INSERT_SIDE = _Insert(sql.SIDE, sql.SIDE.upsert)
_INSERT_SNAPSHOTS = _Insert(sql.SNAPSHOTS, sql.SNAPSHOTS.upsert)
_DELETE = tuple(f"DELETE FROM {table.name} WHERE uid = ?" for table in sql.EXECUTION_TABLES)
_DELETE_SIDE = "DELETE FROM side WHERE uid = ? AND name = ?"
# It must change something, or SQLite writes nothing: a nanosecond off our own lease.
_TOUCH_LEASE = "UPDATE leases SET expires_at = expires_at - 1 WHERE partition = $1"
_texts: dict[str, str] = {}


def _text(statement: str) -> str:
    """A shared statement in SQLite's spelling."""
    text = _texts.get(statement)
    if text is None:
        text = _texts[statement] = re.sub(r"\$(\d)", r"?\1", statement)
    return text


class _FileLocked(StoreError):
    """Another program is writing to the file; nothing was done."""


@contextmanager
def _store_errors(*, is_change: bool = False) -> Generator[None]:
    """Turn SQLite's errors into the store's. is_change: what fails may have become durable nevertheless."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise DuplicateRowError(f"SQLite: {error}") from error
    except sqlite3.Error as error:
        text = f"SQLite: {error}. {advice(error)}"
        code = primary_code(error)
        if code == sqlite3.SQLITE_BUSY:
            raise _FileLocked(text) from error
        raise (CommitUnknown if is_change and code in IN_DOUBT else StoreError)(text) from error
    except (OverflowError, UnicodeError) as error:  # a number or a text that does not fit
        raise StoreError(f"SQLite: {error}") from error


class SqliteStore(SqlStore):
    """A SQLite file (one server at a time), or memory.

    path: of the file, or ":memory:". pragmas: SQLite settings, name → value, on top of PRAGMAS.
    """

    is_shared = False  # one server has the file's lock

    def __init__(self, path: str, *, pragmas: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.description = "in-memory" if path == MEMORY else f"SQLite {path}"
        self._pragmas = {**PRAGMAS, **{name.lower(): str(value) for name, value in (pragmas or {}).items()}}
        self._lock: FileLock | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._scanner: sqlite3.Connection | None = None
        self._thread: WriterThread | None = None
        self._scans: ThreadPoolExecutor | None = None
        self._patience = 0.0
        self._is_in_doubt = False
        self._pages_written = 0
        self._checkpoint: asyncio.Future[None] | None = None

    # -- opening and closing --------------------------------------------------------------------
    async def open(self) -> None:
        for name, value in self._pragmas.items():
            if not re.fullmatch(r"[a-z_]+", name) or not re.fullmatch(r"[-\w.]+", value):
                raise StoreOpenError(f"{name}={value} is no SQLite pragma: give a name and a plain value, for example synchronous=NORMAL.")
        if not self._pragmas["busy_timeout"].isdecimal():
            raise StoreOpenError(f"busy_timeout={self._pragmas['busy_timeout']}: it is a whole number of milliseconds.")
        self._patience = int(self._pragmas["busy_timeout"]) / 1000
        try:
            if self.path != MEMORY:
                self._lock_file()
            self._writer = self._open_writer()
            self._reader = self._writer
            if self.path != MEMORY:
                # Whoever held a lease on this file is gone, or we would not have the lock: its leases must not make us wait.
                self._writer.execute("UPDATE leases SET expires_at = 0")
                # From now on we wait ourselves, and never on the event loop.
                self._writer.execute("PRAGMA busy_timeout = 0").fetchall()
                self._reader = self._open_reader()
                self._scanner = self._open_reader()
                self._thread = WriterThread("perdure-sqlite-writer")
                self._scans = ThreadPoolExecutor(1, "perdure-sqlite-scan")
                self._thread.later(self._give_back_space)  # what the last process did not get to
        except sqlite3.Error as error:
            await self.close()
            raise StoreOpenError(f"{self.description} cannot be used: {error}. {advice(error)}") from error
        except StoreOpenError:
            await self.close()
            raise

    async def close(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
        if self._scans is not None:
            self._scans.shutdown(cancel_futures=True)
            self._scans = None
        # The writer's last: whoever closes last brings the log into the database file, and the others may only read.
        for connection in {id(one): one for one in (self._scanner, self._reader, self._writer) if one is not None}.values():
            connection.close()
        self._writer = self._reader = self._scanner = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _lock_file(self) -> None:
        path = Path(self.path).resolve()
        folder = path.parent
        if not folder.is_dir():
            raise StoreOpenError(f"The folder {folder} of the database file {self.path} does not exist. Make it, or give another path.")
        if path.is_dir():
            raise StoreOpenError(f"{self.path} is a folder; the database needs the path of a file.")
        try:
            self._lock = FileLock(f"{path}-lock")
        except FileLockedError as error:
            holder = f"process {error.holder}" if error.holder else "another process"
            raise StoreInUse(
                f"The database file {self.path} is in use by {holder}. Stop that server, give this one another file, or start it with "
                "--standby to take over when that one ends; several servers can share a PostgreSQL database."
            ) from error
        except OSError as error:
            raise StoreOpenError(
                f"The lock file {path}-lock cannot be made: {error.strerror}. Allow this user to write to {folder}, or give another path."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512)

    def _open_writer(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < (3, 35):
            raise StoreOpenError(f"This Python has SQLite {sqlite3.sqlite_version}; 3.35 or newer is needed. Use a newer Python.")
        connection = self._connect()
        try:
            # Nothing is changed in a file before it is known to be ours and not too new.
            version = self._version(connection)
            statements = schema.missing(version or 0, WORDS, self.description)
            for name, value in self._pragmas.items():
                connection.execute(f"PRAGMA {name} = {value}").fetchall()
            connection.execute("BEGIN IMMEDIATE")
            if version is None:
                statements[:0] = [schema.CREATE_VERSION, schema.INSERT_VERSION]
            for statement in statements:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int | None:
        """Of the schema in the file; None for a new file."""
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if schema.VERSION_TABLE in tables:
            return connection.execute(schema.READ_VERSION).fetchone()[0]
        if tables:
            raise StoreOpenError(f"{self.path} is a SQLite database of another program. Give another path.")
        return None

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        for name in ("busy_timeout", "cache_size"):
            connection.execute(f"PRAGMA {name} = {self._pragmas[name]}").fetchall()
        connection.execute("PRAGMA query_only = ON")
        return connection

    # -- reading ----------------------------------------------------------------------------------
    async def _point(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return _fetch(self._reader, statement, arguments)

    async def _scan(self, statement: str, *arguments: Any) -> Sequence[Row]:
        if self._scans is None:
            return _fetch(self._reader, statement, arguments)
        return await asyncio.get_running_loop().run_in_executor(self._scans, _fetch, self._scanner, statement, arguments)

    # -- writing ----------------------------------------------------------------------------------
    async def _change(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return await self._write(lambda: _fetch(self._writer, statement, arguments, is_change=True))

    async def commit(self, commit: Commit) -> None:
        rows = sql.commit_rows(commit)
        fence = (commit.partition, commit.epoch, commit.commit_number)
        await self._write(lambda: self._apply(fence, rows), is_small=len(rows.journal) + len(rows.headers) <= LARGE_COMMIT)
        if self._scans is not None:
            self._pages_written += 3 + 2 * (len(rows.journal) + len(rows.headers))
            if self._pages_written >= CHECKPOINT_PAGES and (self._checkpoint is None or self._checkpoint.done()):
                self._pages_written = 0
                self._checkpoint = asyncio.get_running_loop().run_in_executor(self._scans, _copy_log, self._scanner)

    async def _write(self, work: Callable[[], Result], *, is_small: bool = True) -> Result:
        if self._thread is None:
            return work()
        try:
            return await self._thread.run(work, is_small=is_small)
        except _FileLocked:
            return await self._thread.run(lambda: self._wait_and(work), is_small=False)

    def _wait_and(self, work: Callable[[], Result]) -> Result:
        """Do it when no other program is writing to the file. Raises StoreError when that takes too long."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return work()
            except _FileLocked:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_RETRY_SECONDS)

    async def read_lease(self, partition: int) -> Lease | None:
        if self._is_in_doubt:
            # What is written now takes the place in the log of all that commits in doubt have left there: no crash can bring it back.
            with suppress(StoreError):  # the disk is no better yet: the answer holds unless the server is killed before it is
                await self._change(_TOUCH_LEASE, partition)
        return await super().read_lease(partition)

    def _apply(self, fence: tuple[int, int, int], rows: CommitRows) -> None:
        connection = self._writer
        if connection is None:
            raise StoreError(f"{self.description} is closed")
        try:
            with _store_errors():
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute(_text(sql.FENCE), fence).rowcount != 1:
                    raise LeaseLost(f"Partition {fence[0]} is no longer owned with epoch {fence[1]}")
                _write_rows(connection, rows)
            with _store_errors(is_change=True):
                connection.execute("COMMIT")
            self._is_in_doubt = False
        except BaseException as error:
            self._is_in_doubt = self._is_in_doubt or isinstance(error, CommitUnknown)
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        if rows.removed and self._thread is not None:
            self._thread.later(self._give_back_space)

    def _give_back_space(self) -> None:
        """Shrink the file by a slice; goes on after the commits that came meanwhile."""
        if self._writer is None or self._thread is None:
            return
        with suppress(sqlite3.Error):  # the next deletion tries again
            free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
            if free > SPARE_PAGES:
                self._writer.execute(f"PRAGMA incremental_vacuum({min(VACUUM_SLICE, free - SPARE_PAGES)})").fetchall()
                self._thread.later(self._give_back_space)


def _write_rows(connection: sqlite3.Connection, rows: CommitRows) -> None:
    if rows.removed:
        uids = [(uid,) for uid in rows.removed]
        for statement in _DELETE:
            connection.executemany(statement, uids)
    if rows.superseded:
        connection.executemany(_text(sql.SUPERSEDE), [(uid,) for uid in rows.superseded])
    if rows.journal:
        _INSERT_JOURNAL.run(connection, rows.journal)
    if rows.headers:
        _INSERT_HEADERS.run(connection, rows.headers)
    if rows.side:
        _INSERT_SIDE.run(connection, rows.side)
    if rows.side_removed:
        connection.executemany(_DELETE_SIDE, rows.side_removed)
    if rows.snapshots:
        _INSERT_SNAPSHOTS.run(connection, rows.snapshots)


def _fetch(connection: sqlite3.Connection | None, statement: str, arguments: Sequence[Any], *, is_change: bool = False) -> list[Row]:
    if connection is None:
        raise StoreError("The store is closed")
    with _store_errors(is_change=is_change):
        return connection.execute(_text(statement), arguments).fetchall()


def _copy_log(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):  # busy or out of space: the next one tries again
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
