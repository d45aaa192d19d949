"""What the engine asks of a database: one commit, a few reads.

A store holds, for every execution (a workflow run, later a standalone activity, a schedule …), its *journal* (append-only rows) and
its *header* (one row, overwritten; also the visibility row), plus *side* data that is overwritten in place (heartbeat details), *snapshots*
(a cache that may be dropped at any time), *resources* (namespaces, endpoints …) and *leases*.

Everything that has to become durable together goes into one :class:`Commit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import msgspec

SLOTS = 4096
"""Executions are spread over so many slots by a hash of (namespace id, business id); a partition owns a range of them.

Users never see it.
"""


class StoreError(Exception):
    """The store could not do what was asked; nothing of it happened."""


class CommitUnknown(StoreError):
    """The connection broke in the middle of a commit: it may or may not have happened.

    :meth:`Store.read_lease` tells: the commit happened if the lease remembers its commit_number.
    """


class LeaseLost(StoreError):
    """Another server owns this partition now; the commit did not happen and none ever will."""


class StoreOpenError(StoreError):
    """The store cannot be used at all (unreachable, locked, too new); the message says why and what to do."""


class StoreInUse(StoreOpenError):
    """Another server uses the store; it can be used once that server has ended."""


class Header(msgspec.Struct):
    """One execution's row: where to find it again after a restart, and what visibility shows.

    uid: the store's own key of the execution, unique and growing. slot: see SLOTS. kind: "workflow", later others.
    business_id: the workflow id (activity id, schedule id …). is_current: the run that a call without run id means; at most one per
    (namespace_id, kind, business_id). uid, slot, namespace_id, kind, business_id, run_id and start_at never change after the first commit.
    ready: work can be dispatched now. wake_at: the earliest moment something has to happen, None if never. expire_at: when a closed
    execution is deleted. A header may be conservative (say ready or an early wake_at when there is nothing to do), never the opposite.
    search_attributes: JSON text, name → value. memo: encoded temporal.api.common.v1.Memo. details: anything else visibility shows, encoded
    by the kind.
    Times are nanoseconds since the epoch; None where not set. status: the kind's own number (for workflows WorkflowExecutionStatus).
    """

    uid: int
    slot: int
    namespace_id: str
    kind: str
    business_id: str
    run_id: str
    is_current: bool
    type_name: str
    task_queue: str
    status: int
    start_at: int
    execution_at: int
    close_at: int | None = None
    ready: bool = False
    wake_at: int | None = None
    expire_at: int | None = None
    history_length: int = 0
    history_size: int = 0
    state_transitions: int = 0
    parent_business_id: str | None = None
    parent_run_id: str | None = None
    root_business_id: str = ""
    root_run_id: str = ""
    search_attributes: str = "{}"
    memo: bytes = b""
    details: bytes = b""

    def copy(self) -> Header:
        """As it is now."""
        return copy(self)


class JournalRow(msgspec.Struct, frozen=True, gc=False):
    """What one step appended: history events and private notes, in the order given by the notes' positions.

    sequence: 1, 2, 3 … per execution. first_event_id: of the events in it, or of the next event where it has none. events: encoded
    temporal.api.history.v1.History holding event_count events (rows joined byte by byte are a valid History again). notes: encoded list of
    notes, each with the number of this row's events that precede it.
    """

    uid: int
    sequence: int
    first_event_id: int
    event_count: int
    events: bytes
    notes: bytes


class SideRow(msgspec.Struct, frozen=True, gc=False):
    """Data kept beside the journal, overwritten. data None deletes it."""

    uid: int
    name: str
    data: bytes | None


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A state as it was after the journal row `sequence`. version: of the snapshot's format; another one is ignored."""

    uid: int
    sequence: int
    version: str
    data: bytes


@dataclass(slots=True, frozen=True)
class Resource:
    """A named thing that is not an execution: a namespace, a Nexus endpoint … version: 1, 2, 3 …; data: encoded by its feature."""

    kind: str
    id: str
    name: str
    version: int
    data: bytes


class Commit(msgspec.Struct):
    """All that becomes durable together. Within one commit, `superseded` (uids that stop being current) is applied before `headers`.

    partition, epoch, commit_number: the fence: the partition's lease must have this epoch; the store remembers commit_number in the same
    transaction. journal rows may refuse nothing: a row that exists already (same uid and sequence) is a bug or a lost lease, and fails the
    commit. deleted: uids of executions that are removed with all their rows, those of this commit included. Of several headers (side
    rows, snapshots) of the same thing the last one counts; a header wins over `superseded`.
    """

    partition: int
    epoch: int
    commit_number: int
    journal: list[JournalRow] = []
    superseded: list[int] = []
    headers: list[Header] = []
    side: list[SideRow] = []
    snapshots: list[Snapshot] = []
    deleted: list[int] = []


@dataclass(slots=True, frozen=True)
class Lease:
    """The right to write a partition.

    epoch grows with every new owner. expires_at: ns since the epoch. commit_number: of the last commit, of whatever owner.
    """

    partition: int
    epoch: int
    owner: str
    expires_at: int
    commit_number: int


class Store(Protocol):
    """One database. All methods may be called concurrently from one event loop; commits of one partition come one at a time."""

    #: For people: "in-memory", "SQLite /path", "PostgreSQL host/database" (never a password).
    description: str
    #: Whether other servers may use it at the same time: then a server may answer only while it surely holds its leases.
    is_shared: bool

    async def open(self) -> None:
        """Connect, lock where that is needed, migrate the schema. Raises StoreOpenError."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    # -- leases -------------------------------------------------------------------------------
    async def acquire_lease(self, partition: int, owner: str, now: int, until: int) -> Lease | None:
        """Take the lease if it is free, expired or already the owner's; the epoch grows by one. None: another owner holds it.

        now, until: by the caller's clock. A store that is shared goes by the database's own clock: only their difference counts there.
        """
        ...

    async def renew_lease(self, lease: Lease, now: int, until: int) -> bool:
        """Extend it; False when the epoch is no longer ours. now, until: as in :meth:`acquire_lease`."""
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Let the next owner in at once."""
        ...

    async def read_lease(self, partition: int) -> Lease | None:
        """Who holds a partition now (for messages and for resolving an unknown commit).

        On PostgreSQL this waits for a transaction in doubt to end before it answers, so that the answer is final.
        """
        ...

    # -- commit -------------------------------------------------------------------------------
    async def commit(self, commit: Commit) -> None:
        """Make it durable. Raises LeaseLost, CommitUnknown, StoreError (nothing happened)."""
        ...

    # -- executions -----------------------------------------------------------------------------
    async def find_current(self, namespace_id: str, kind: str, business_id: str) -> Header | None: ...

    async def find_run(self, namespace_id: str, kind: str, business_id: str, run_id: str) -> Header | None: ...

    async def read_journal(self, uid: int, after_sequence: int = 0) -> Sequence[JournalRow]:
        """The journal rows after one, in order."""
        ...

    async def read_history(self, uid: int, first_event_id: int, limit: int, *, reverse: bool = False) -> Sequence[JournalRow]:
        """Rows that hold events, notes left empty. Forward: in order, those whose last event is at or after first_event_id.
        Reverse: in falling order, those whose first event is at or before first_event_id. At most `limit` rows."""
        ...

    async def read_snapshot(self, uid: int, version: str) -> Snapshot | None: ...

    async def read_side(self, uid: int) -> Sequence[SideRow]: ...

    async def find_ready(self, slots: range, after_uid: int, limit: int) -> Sequence[Header]:
        """Executions with ready set, by uid, after one."""
        ...

    async def find_due(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        """Executions with wake_at < before, earliest first."""
        ...

    async def find_expired(self, slots: range, before: int, limit: int) -> Sequence[Header]:
        """Closed executions with expire_at < before, earliest first. Those that are ready have something to tell others first."""
        ...

    async def list_headers(
        self, namespace_id: str, kind: str, *, open_only: bool | None = None, after: tuple[int, int] | None = None, limit: int = 1000
    ) -> Sequence[Header]:
        """Newest first by (start_at, uid); `after` is the last row's pair of the page before. The query language comes with visibility."""
        ...

    async def count_headers(self, namespace_id: str, kind: str, *, open_only: bool | None = None) -> int: ...

    # -- resources ----------------------------------------------------------------------------
    async def list_resources(self, kind: str) -> Sequence[Resource]: ...

    async def put_resource(self, resource: Resource, expected_version: int) -> bool:
        """Insert (expected_version 0) or replace when the stored version is the expected one. False: it is not, or the name is taken."""
        ...

    async def delete_resource(self, kind: str, id: str, expected_version: int | None = None) -> bool: ...

    async def read_metadata(self, name: str) -> str | None:
        """A small setting of the store itself (the cluster id, for example)."""
        ...

    async def write_metadata(self, name: str, value: str) -> str:
        """Set it if it is not set; return what is stored."""
        ...
