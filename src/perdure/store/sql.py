"""All that both databases share: the statements, how rows become objects and objects rows, and every method of the Store but the commit.

A dialect (:mod:`perdure.store.sqlite`, :mod:`perdure.store.postgres`) brings three ways to run a statement and the commit itself.
Statements here number their arguments ``$1``, ``$2`` …; SQLite reads them as ``?1``, ``?2`` ….
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from perdure.store.protocol import Commit, Header, JournalRow, Lease, Resource, SideRow, Snapshot, StoreError

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What a commit may write to a table: its columns (name → PostgreSQL type), its key, and the columns an update leaves alone."""

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    fixed: frozenset[str] = frozenset()

    @property
    def names(self) -> str:
        """The columns, comma-separated."""
        return ", ".join(self.columns)

    @property
    def upsert(self) -> str:
        """The end of an INSERT that overwrites the row that is there."""
        changed = [name for name in self.columns if name not in self.key and name not in self.fixed]
        return f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in changed)


# Columns that never change after the first commit stay out of the update, so that it does not touch the indexes on them.
HEADERS = Table(
    "headers",
    {
        "uid": "bigint",
        "slot": "bigint",
        "namespace_id": "text",
        "kind": "text",
        "business_id": "text",
        "run_id": "text",
        "is_current": "boolean",
        "type_name": "text",
        "task_queue": "text",
        "status": "bigint",
        "start_at": "bigint",
        "execution_at": "bigint",
        "close_at": "bigint",
        "ready": "boolean",
        "wake_at": "bigint",
        "expire_at": "bigint",
        "history_length": "bigint",
        "history_size": "bigint",
        "state_transitions": "bigint",
        "parent_business_id": "text",
        "parent_run_id": "text",
        "root_business_id": "text",
        "root_run_id": "text",
        "search_attributes": "text",
        "memo": "bytea",
        "details": "bytea",
    },
    key=("uid",),
    fixed=frozenset({"slot", "namespace_id", "kind", "business_id", "run_id", "start_at"}),
)
JOURNAL = Table(
    "journal",
    {"uid": "bigint", "sequence": "bigint", "first_event_id": "bigint", "event_count": "bigint", "events": "bytea", "notes": "bytea"},
    key=("uid", "sequence"),
)
SIDE = Table("side", {"uid": "bigint", "name": "text", "data": "bytea"}, key=("uid", "name"))
SNAPSHOTS = Table("snapshots", {"uid": "bigint", "sequence": "bigint", "version": "text", "data": "bytea"}, key=("uid",))
EXECUTION_TABLES = (HEADERS, JOURNAL, SIDE, SNAPSHOTS)
"""Every table with rows of an execution, found by uid."""

LAST_TIME = 2**63 - 1
"""In the year 2262."""

_header_row = attrgetter(*Header.__struct_fields__)
_journal_row = attrgetter(*JOURNAL.columns)
_side_row = attrgetter(*SIDE.columns)
_snapshot_row = attrgetter(*SNAPSHOTS.columns)
_CURRENT = list(HEADERS.columns).index("is_current")
_READY = list(HEADERS.columns).index("ready")


@dataclass(slots=True)
class CommitRows:
    """A commit as plain rows that may be applied in this order: removed, superseded, then all inserts and upserts in any order.

    headers: those that are not current come first, so that a run has given up its place before its successor takes it.
    """

    removed: list[int]
    superseded: list[int]
    journal: list[Row]
    headers: list[Row]
    side: list[Row]
    side_removed: list[Row]
    snapshots: list[Row]


def commit_rows(commit: Commit) -> CommitRows:
    """Take the rows out of a commit; of several writes of the same thing the last one counts, and a deleted execution gets none.

    Headers are copied here, so the caller may go on changing them.
    """
    gone = set(commit.deleted)
    headers = [_header(header) for header in commit.headers]
    journal: list[Row] = [_journal_row(row) for row in commit.journal]
    superseded = commit.superseded
    if len(headers) > 1:
        headers = list({row[0]: row for row in headers if row[0] not in gone}.values())
        headers.sort(key=_is_current)
    if superseded:
        rewritten = {row[0] for row in headers}
        superseded = [uid for uid in superseded if uid not in gone and uid not in rewritten]
    side = [row for row in {(row.uid, row.name): row for row in commit.side}.values() if row.uid not in gone] if commit.side else []
    snapshots = list({row.uid: row for row in commit.snapshots if row.uid not in gone}.values()) if commit.snapshots else []
    if gone:
        headers = [row for row in headers if row[0] not in gone]
        journal = [row for row in journal if row[0] not in gone]
    return CommitRows(
        removed=commit.deleted,
        superseded=superseded,
        journal=journal,
        headers=headers,
        side=[_side_row(row) for row in side if row.data is not None],
        side_removed=[(row.uid, row.name) for row in side if row.data is None],
        snapshots=[_snapshot_row(row) for row in snapshots],
    )


def _header(header: Header) -> Row:
    """Its row. A time that no store could hold becomes the last one that it can: refused, it would take the whole commit with it."""
    if (header.wake_at or 0) > LAST_TIME or (header.expire_at or 0) > LAST_TIME or header.execution_at > LAST_TIME:
        header = header.copy()
        header.wake_at = None if header.wake_at is None else min(header.wake_at, LAST_TIME)
        header.expire_at = None if header.expire_at is None else min(header.expire_at, LAST_TIME)
        header.execution_at = min(header.execution_at, LAST_TIME)
    return _header_row(header)


def _is_current(row: Row) -> bool:
    return row[_CURRENT]


def to_header(row: Row) -> Header:
    """A row of all header columns, in their order."""
    header = Header(*row)
    header.is_current = bool(row[_CURRENT])  # SQLite has no booleans
    header.ready = bool(row[_READY])
    return header


_LEASE = "partition, epoch, owner, expires_at, commit_number"
_SELECT_HEADERS = f"SELECT {HEADERS.names} FROM headers"
_SELECT_JOURNAL = f"SELECT {JOURNAL.names} FROM journal"


def acquire_lease(now: str, until: str, *, condition: str = "TRUE") -> str:
    """The statement that takes a lease: $1 partition, $2 owner. now, until: SQL of the times, nanoseconds since the epoch.
    condition: SQL of what must hold."""
    return f"""
INSERT INTO leases ({_LEASE}) SELECT $1, 1, $2, {until}, 0 WHERE {condition}
ON CONFLICT (partition) DO UPDATE SET epoch = leases.epoch + 1, owner = excluded.owner, expires_at = excluded.expires_at
WHERE leases.owner = excluded.owner OR leases.expires_at <= {now}
RETURNING {_LEASE}"""


def renew_lease(until: str) -> str:
    """The statement that extends a lease: $1 partition, $2 epoch, $3 owner."""
    return f"UPDATE leases SET expires_at = {until} WHERE partition = $1 AND epoch = $2 AND owner = $3 RETURNING partition"


ACQUIRE_LEASE = acquire_lease("$3", "$4")
RENEW_LEASE = renew_lease("$4")
RELEASE_LEASE = "UPDATE leases SET expires_at = 0, owner = '' WHERE partition = $1 AND epoch = $2 AND owner = $3 RETURNING partition"
READ_LEASE = f"SELECT {_LEASE} FROM leases WHERE partition = $1"
FENCE = "UPDATE leases SET commit_number = $3 WHERE partition = $1 AND epoch = $2"
SUPERSEDE = "UPDATE headers SET is_current = FALSE WHERE uid = $1"

FIND_CURRENT = f"{_SELECT_HEADERS} WHERE namespace_id = $1 AND kind = $2 AND business_id = $3 AND is_current"
FIND_RUN = f"{_SELECT_HEADERS} WHERE namespace_id = $1 AND kind = $2 AND business_id = $3 AND run_id = $4"
FIND_READY = f"{_SELECT_HEADERS} WHERE ready AND slot BETWEEN $1 AND $2 AND uid > $3 ORDER BY uid LIMIT $4"
FIND_DUE = f"{_SELECT_HEADERS} WHERE wake_at < $3 AND slot BETWEEN $1 AND $2 ORDER BY wake_at LIMIT $4"
FIND_EXPIRED = f"{_SELECT_HEADERS} WHERE expire_at < $3 AND NOT ready AND slot BETWEEN $1 AND $2 ORDER BY expire_at LIMIT $4"

READ_JOURNAL = f"{_SELECT_JOURNAL} WHERE uid = $1 AND sequence > $2 ORDER BY sequence"
# The row that holds an event is found by halving: sequences have no holes and first_event_id never falls along them. So an event in the
# middle of a long history costs a few more look-ups, and no second index has to be written for every journal row.
_LOCATE = """
WITH RECURSIVE located (low, high) AS (
    SELECT CAST(0 AS BIGINT), COALESCE(MAX(sequence), 0) + 1 FROM journal WHERE uid = $1
    UNION ALL
    SELECT CASE WHEN middle.first_event_id <= $2 THEN (low + high) / 2 ELSE low END,
        CASE WHEN middle.first_event_id <= $2 THEN high ELSE (low + high) / 2 END
    FROM located LEFT JOIN journal AS middle ON middle.uid = $1 AND middle.sequence = (low + high) / 2
    WHERE high - low > 1
)"""
_SELECT_HISTORY = f"{_LOCATE} SELECT uid, sequence, first_event_id, event_count, events FROM journal WHERE uid = $1 AND event_count > 0"
_LOCATED = "(SELECT low FROM located WHERE high - low <= 1)"
READ_HISTORY = f"{_SELECT_HISTORY} AND sequence >= {_LOCATED} AND first_event_id + event_count > $2 ORDER BY sequence LIMIT $3"
READ_HISTORY_REVERSE = f"{_SELECT_HISTORY} AND sequence <= {_LOCATED} ORDER BY sequence DESC LIMIT $3"
READ_SNAPSHOT = f"SELECT {SNAPSHOTS.names} FROM snapshots WHERE uid = $1 AND version = $2"
READ_SIDE = f"SELECT {SIDE.names} FROM side WHERE uid = $1 ORDER BY name"

_OPEN = {None: "", True: " AND close_at IS NULL", False: " AND close_at IS NOT NULL"}
_LIST = {chosen: f"{_SELECT_HEADERS} WHERE namespace_id = $1 AND kind = $2{clause}" for chosen, clause in _OPEN.items()}
LIST_FIRST = {chosen: f"{select} ORDER BY start_at DESC, uid DESC LIMIT $3" for chosen, select in _LIST.items()}
LIST_AFTER = {
    chosen: f"{select} AND (start_at, uid) < ($4, $5) ORDER BY start_at DESC, uid DESC LIMIT $3" for chosen, select in _LIST.items()
}
COUNT = {chosen: f"SELECT COUNT(*) FROM headers WHERE namespace_id = $1 AND kind = $2{clause}" for chosen, clause in _OPEN.items()}

LIST_RESOURCES = "SELECT kind, id, name, version, data FROM resources WHERE kind = $1 ORDER BY name"
INSERT_RESOURCE = "INSERT INTO resources (kind, id, name, version, data) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING id"
REPLACE_RESOURCE = """
UPDATE resources SET name = $3, version = $4, data = $5 WHERE kind = $1 AND id = $2 AND version = $6
AND NOT EXISTS (SELECT 1 FROM resources AS other WHERE other.kind = $1 AND other.name = $3 AND other.id <> $2) RETURNING id"""
DELETE_RESOURCE = "DELETE FROM resources WHERE kind = $1 AND id = $2 RETURNING id"
DELETE_RESOURCE_VERSION = "DELETE FROM resources WHERE kind = $1 AND id = $2 AND version = $3 RETURNING id"
READ_METADATA = "SELECT value FROM metadata WHERE name = $1"
WRITE_METADATA = "INSERT INTO metadata (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING value"


class DuplicateRowError(StoreError):
    """A row that must be new is there already."""


class SqlStore(ABC):
    """The Store over SQL, but for opening, closing and the commit."""

    description: str
    is_shared: bool

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def commit(self, commit: Commit) -> None: ...

    @abstractmethod
    async def _point(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Read a few rows by a key; sees every commit that was reported done."""

    @abstractmethod
    async def _scan(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Read what may be many rows."""

    @abstractmethod
    async def _change(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Run one durable change outside of the commits; answers what it returns. Raises DuplicateRowError."""

    async def _change_lease(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """The same for a change of a lease, which must not wait behind anything that may take long."""
        return await self._change(statement, *arguments)

    # -- leases -------------------------------------------------------------------------------
    async def acquire_lease(self, partition: int, owner: str, now: int, until: int) -> Lease | None:
        rows = await self._change_lease(ACQUIRE_LEASE, partition, owner, now, until)
        return Lease(*rows[0]) if rows else None

    async def renew_lease(self, lease: Lease, now: int, until: int) -> bool:
        return bool(await self._change_lease(RENEW_LEASE, lease.partition, lease.epoch, lease.owner, until))

    async def release_lease(self, lease: Lease) -> None:
        await self._change_lease(RELEASE_LEASE, lease.partition, lease.epoch, lease.owner)

    async def read_lease(self, partition: int) -> Lease | None:
        rows = await self._point(READ_LEASE, partition)
        return Lease(*rows[0]) if rows else None

    # -- executions -----------------------------------------------------------------------------
    async def find_current(self, namespace_id: str, kind: str, business_id: str) -> Header | None:
        rows = await self._point(FIND_CURRENT, namespace_id, kind, business_id)
        return to_header(rows[0]) if rows else None

    async def find_run(self, namespace_id: str, kind: str, business_id: str, run_id: str) -> Header | None:
        rows = await self._point(FIND_RUN, namespace_id, kind, business_id, run_id)
        return to_header(rows[0]) if rows else None

    async def read_journal(self, uid: int, after_sequence: int = 0) -> Sequence[JournalRow]:
        return [JournalRow(*row) for row in await self._point(READ_JOURNAL, uid, after_sequence)]

    async def read_history(self, uid: int, first_event_id: int, limit: int, *, reverse: bool = False) -> Sequence[JournalRow]:
        statement = READ_HISTORY_REVERSE if reverse else READ_HISTORY
        return [JournalRow(*row, notes=b"") for row in await self._point(statement, uid, first_event_id, limit)]

    async def read_snapshot(self, uid: int, version: str) -> Snapshot | None:
        rows = await self._point(READ_SNAPSHOT, uid, version)
        return Snapshot(*rows[0]) if rows else None

    async def read_side(self, uid: int) -> Sequence[SideRow]:
        return [SideRow(*row) for row in await self._point(READ_SIDE, uid)]

    async def find_ready(self, slots: range, after_uid: int, limit: int) -> Sequence[Header]:
        return [to_header(row) for row in await self._scan(FIND_READY, slots.start, slots.stop - 1, after_uid, limit)]

    async def find_due(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        return [to_header(row) for row in await self._scan(FIND_DUE, slots.start, slots.stop - 1, before, limit)]

    async def find_expired(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        return [to_header(row) for row in await self._scan(FIND_EXPIRED, slots.start, slots.stop - 1, before, limit)]

    async def list_headers(
        self, namespace_id: str, kind: str, *, open_only: bool | None = None, after: tuple[int, int] | None = None, limit: int = 1000
    ) -> Sequence[Header]:
        if after is None:
            rows = await self._scan(LIST_FIRST[open_only], namespace_id, kind, limit)
        else:
            rows = await self._scan(LIST_AFTER[open_only], namespace_id, kind, limit, *after)
        return [to_header(row) for row in rows]

    async def count_headers(self, namespace_id: str, kind: str, *, open_only: bool | None = None) -> int:
        return (await self._scan(COUNT[open_only], namespace_id, kind))[0][0]

    # -- resources ----------------------------------------------------------------------------
    async def list_resources(self, kind: str) -> Sequence[Resource]:
        return [Resource(*row) for row in await self._scan(LIST_RESOURCES, kind)]

    async def put_resource(self, resource: Resource, expected_version: int) -> bool:
        row = (resource.kind, resource.id, resource.name, resource.version, resource.data)
        try:
            if expected_version == 0:
                return bool(await self._change(INSERT_RESOURCE, *row))
            return bool(await self._change(REPLACE_RESOURCE, *row, expected_version))
        except DuplicateRowError:  # two renames to one name at the same moment
            return False

    async def delete_resource(self, kind: str, id: str, expected_version: int | None = None) -> bool:
        if expected_version is None:
            return bool(await self._change(DELETE_RESOURCE, kind, id))
        return bool(await self._change(DELETE_RESOURCE_VERSION, kind, id, expected_version))

    async def read_metadata(self, name: str) -> str | None:
        rows = await self._point(READ_METADATA, name)
        return rows[0][0] if rows else None

    async def write_metadata(self, name: str, value: str) -> str:
        rows = await self._change(WRITE_METADATA, name, value) or await self._point(READ_METADATA, name)
        return rows[0][0]
