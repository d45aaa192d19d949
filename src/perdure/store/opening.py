"""From what a user writes to the store it means."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.store.protocol import Store, StoreOpenError


def create_store(location: str, *, sqlite_pragmas: Mapping[str, str] | None = None, synchronous_commit: str = "on") -> Store:
    """The store at a location, not yet open.

    location: "" or ":memory:" for memory, "postgresql://user:password@host:port/database" for PostgreSQL, anything else is the path of a
    SQLite file. sqlite_pragmas: SQLite settings, name → value; PostgreSQL has no use for them. synchronous_commit: PostgreSQL's own
    setting; SQLite has a pragma for that.
    Raises StoreOpenError when the driver for PostgreSQL is not installed.
    """
    # Each database's module is imported only when it is the one: the other's driver would cost start-up time.
    if location.startswith(("postgresql://", "postgres://")):
        try:
            from perdure.store.postgres import PostgresStore
        except ModuleNotFoundError as error:
            raise StoreOpenError(
                f"PostgreSQL needs the package {error.name}, which is not installed. Install it: pip install 'perdure[postgres]'"
            ) from error
        return PostgresStore(location, synchronous_commit=synchronous_commit)
    from perdure.store.sqlite import MEMORY, SqliteStore

    return SqliteStore(location or MEMORY, pragmas=sqlite_pragmas)
