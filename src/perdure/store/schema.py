"""The tables, as a list of migrations that only grows.

A migration is text that both databases understand once three words are filled in: ``{key}`` (the type of a growing integer key),
``{bytes}`` (the type of encoded data) and ``{clustered}`` (keep the rows in the order of the primary key, where the database can).
A migration that was released is never edited; a change is a new migration.

Times are nanoseconds since the epoch; see :mod:`perdure.store.protocol` for the meaning of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.store.protocol import StoreOpenError


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from version - 1 to version. Statements are applied in order, in one transaction with all other missing steps."""

    version: int
    statements: tuple[str, ...]


# Why these indexes and no more: every index on a column that changes costs a page per commit. headers_current and headers_run find an
# execution, headers_start lists; the columns in them never change after the insert. The others are partial: only executions that have such
# work are in them (and headers_current has only the current runs). The journal is not kept in the order of its key: a commit has rows of
# many executions, which fill one page where they come last, and would change a page each where they stand with their own.
MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        (
            """
            CREATE TABLE headers (
                uid {key} PRIMARY KEY,
                slot BIGINT NOT NULL,
                namespace_id TEXT NOT NULL,
                kind TEXT NOT NULL,
                business_id TEXT NOT NULL,
                run_id TEXT NOT NULL,
                is_current BOOLEAN NOT NULL,
                type_name TEXT NOT NULL,
                task_queue TEXT NOT NULL,
                status BIGINT NOT NULL,
                start_at BIGINT NOT NULL,
                execution_at BIGINT NOT NULL,
                close_at BIGINT,
                ready BOOLEAN NOT NULL,
                wake_at BIGINT,
                expire_at BIGINT,
                history_length BIGINT NOT NULL,
                history_size BIGINT NOT NULL,
                state_transitions BIGINT NOT NULL,
                parent_business_id TEXT,
                parent_run_id TEXT,
                root_business_id TEXT NOT NULL,
                root_run_id TEXT NOT NULL,
                search_attributes TEXT NOT NULL,
                memo {bytes} NOT NULL,
                details {bytes} NOT NULL
            )
            """,
            "CREATE UNIQUE INDEX headers_current ON headers (namespace_id, kind, business_id) WHERE is_current",
            "CREATE UNIQUE INDEX headers_run ON headers (namespace_id, kind, business_id, run_id)",
            "CREATE INDEX headers_start ON headers (namespace_id, kind, start_at DESC, uid DESC)",
            "CREATE INDEX headers_ready ON headers (uid, slot) WHERE ready",
            "CREATE INDEX headers_wake ON headers (wake_at, slot) WHERE wake_at IS NOT NULL",
            "CREATE INDEX headers_expire ON headers (expire_at, slot) WHERE expire_at IS NOT NULL",
            """
            CREATE TABLE journal (
                uid BIGINT NOT NULL,
                sequence BIGINT NOT NULL,
                first_event_id BIGINT NOT NULL,
                event_count BIGINT NOT NULL,
                events {bytes} NOT NULL,
                notes {bytes} NOT NULL,
                PRIMARY KEY (uid, sequence)
            )
            """,
            "CREATE TABLE side (uid BIGINT NOT NULL, name TEXT NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (uid, name)){clustered}",
            "CREATE TABLE snapshots (uid {key} PRIMARY KEY, sequence BIGINT NOT NULL, version TEXT NOT NULL, data {bytes} NOT NULL)",
            """
            CREATE TABLE resources (
                kind TEXT NOT NULL,
                id TEXT NOT NULL,
                name TEXT NOT NULL,
                version BIGINT NOT NULL,
                data {bytes} NOT NULL,
                PRIMARY KEY (kind, id),
                UNIQUE (kind, name)
            )
            """,
            """
            CREATE TABLE leases (
                partition {key} PRIMARY KEY,
                epoch BIGINT NOT NULL,
                owner TEXT NOT NULL,
                expires_at BIGINT NOT NULL,
                commit_number BIGINT NOT NULL
            )
            """,
            "CREATE TABLE metadata (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
    ),
)

LATEST = MIGRATIONS[-1].version

# The table that tells how far the migrations came; it is there before the first of them. One row.
VERSION_TABLE = "perdure_schema"
CREATE_VERSION = f"CREATE TABLE {VERSION_TABLE} (version BIGINT NOT NULL)"
INSERT_VERSION = f"INSERT INTO {VERSION_TABLE} (version) VALUES (0)"
READ_VERSION = f"SELECT version FROM {VERSION_TABLE}"


def too_new(version: int, known: int, description: str) -> StoreOpenError:
    """What to say of a database of a version beyond the one that is known."""
    return StoreOpenError(
        f"{description} has schema version {version}, but this version of Perdure knows only up to {known}. "
        "It was written by a newer Perdure: start that one, or restore a backup made before the upgrade."
    )


def missing(version: int, words: Mapping[str, str], description: str) -> list[str]:
    """The statements that bring a database of this version to LATEST, the new version's record included; empty when it is there.

    words: the dialect's key, bytes and clustered. description: the database's, for the message.
    Raises StoreOpenError when the database is newer than this program.
    """
    if version > LATEST:
        raise too_new(version, LATEST, description)
    statements = [
        statement.format_map(words).strip() for migration in MIGRATIONS if migration.version > version for statement in migration.statements
    ]
    if statements:
        statements.append(f"UPDATE {VERSION_TABLE} SET version = {LATEST}")
    return statements
