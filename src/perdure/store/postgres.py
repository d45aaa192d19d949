"""The store in a PostgreSQL database, which several servers may share: each partition belongs to whoever holds its lease.

Everything lives in the database schema ``perdure``. A commit is one statement, so one round trip. When the connection breaks under a
commit its outcome is unknown; :meth:`PostgresStore.read_lease` then ends the server process that ran it before it reads, so that nothing
can still arrive late.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NoReturn

import asyncpg

from perdure.store import schema, sql
from perdure.store.postgres_commit import commit_statement
from perdure.store.postgres_driver import BROKEN, CONNECT_SECONDS, Connection, connect, state_of
from perdure.store.postgres_pool import Pool
from perdure.store.protocol import Commit, CommitUnknown, Lease, LeaseLost, StoreError, StoreInUse, StoreOpenError
from perdure.store.sql import DuplicateRowError, Row, SqlStore

WORDS = {"key": "BIGINT", "bytes": "BYTEA", "clustered": ""}
SCHEMA = "perdure"
OLDEST = 13
"""The oldest PostgreSQL that is accepted: older ones get no fixes any more."""
READ_CONNECTIONS = 10
COMMIT_CONNECTIONS = 8
LEASE_CONNECTIONS = 4
"""At most so many sessions for reads (and rare changes of resources), for commits, and for leases, each made when it is first needed:
whatever is read, and however much, a commit waits only for commits and a lease only for leases."""
RENEWAL_SECONDS = 1.5
"""A renewal that takes longer is given up, early enough for another one on another connection before the lease runs out."""
DOUBT_SECONDS = 10.0
"""So long a read of a lease waits for the end of the process that ran a commit in doubt, before it gives up for now."""

# Leases go by the database's clock: those of the servers need not agree.
_NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000 AS BIGINT)"
# Whoever is about to change the tables locks the leases: this waits for the end of that, and sees it.
_ACQUIRE_LEASE = sql.acquire_lease(_NOW, f"{_NOW} + $3", condition=f"$4 = ({schema.READ_VERSION})")
_RENEW_LEASE = sql.renew_lease(f"{_NOW} + $4")

# Any number will do that no other program uses for its advisory locks: the bytes "perdure".
_MIGRATION_LOCK = int.from_bytes(b"perdure", "big")
_IN_DOUBT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1::bigint[]) AND application_name = $2"
_stores = count(1)
# The server ended the session: shut down, crashed, told to. It may have done so between the commit and the answer.
_SESSION_ENDED = re.compile(r"57P0\d|08\d\d\d|40003")


class PostgresStore(SqlStore):
    """A PostgreSQL database, given as postgresql://user:password@host:port/database.

    synchronous_commit: when a commit counts as done, as PostgreSQL calls it; "on" keeps what was acknowledged through any crash.
    """

    is_shared = True

    def __init__(self, url: str, *, synchronous_commit: str = "on") -> None:
        self._url = url
        self._synchronous_commit = synchronous_commit
        # Cut by hand: whatever is wrong with the URL, nothing of a password may be shown.
        self.description = "PostgreSQL " + re.split("[?&]", url.partition("://")[2].rpartition("@")[2])[0]
        # By this the database is asked about exactly our sessions; it keeps no more than 63 characters.
        self._name = f"perdure {os.getpid()}.{next(_stores)} {socket.gethostname()}"[:63]
        self._pools: tuple[Pool, ...] = ()
        self._in_doubt: set[int] = set()
        self._closed = True
        #: The version of the schema that this store works with, once it is open.
        self._version = 0

    # -- opening and closing --------------------------------------------------------------------
    async def open(self) -> None:
        try:
            connection = await self._connect()
        except Exception as error:
            raise StoreOpenError(f"{self.description} cannot be used: {_reason(error)}") from error
        try:
            await self._migrate(connection)
        except StoreOpenError:
            await connection.close()
            raise
        except (asyncpg.PostgresError, *BROKEN) as error:
            connection.terminate()
            raise StoreOpenError(f"{self.description} cannot be used: {_reason(error)}") from error
        except BaseException:
            connection.terminate()
            raise
        self._reads, self._commits, self._leases = self._pools = tuple(
            Pool(size, self._reconnect, _refused) for size in (READ_CONNECTIONS, COMMIT_CONNECTIONS, LEASE_CONNECTIONS)
        )
        self._leases.put(connection)
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(pool.close() for pool in self._pools))

    async def _connect(self) -> Connection:
        settings = {
            "application_name": self._name,
            "search_path": SCHEMA,
            # Said for each session, whatever the database or the role has for a default: what was acknowledged must not be lost, and two
            # changes that meet on a row must wait for each other and not fail.
            "synchronous_commit": self._synchronous_commit,
            "default_transaction_isolation": "read committed",
            # Statements are few and prepared; planning them anew for each set of arguments costs more than running them.
            "plan_cache_mode": "force_generic_plan",
            # A plan is kept for long, and the first is made when the tables are still empty.
            "enable_seqscan": "off",
            "jit": "off",
        }
        return await connect(self._url, settings)

    async def _migrate(self, connection: Connection) -> None:
        release = connection.get_server_version()[0]
        if release < OLDEST:
            raise StoreOpenError(f"{self.description} is PostgreSQL {release}; {OLDEST} or newer is needed. Upgrade the database.")
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            fresh = (await connection.fetch(f"SELECT to_regclass('{SCHEMA}.{schema.VERSION_TABLE}') IS NULL"))[0][0]
            version = 0 if fresh else (await connection.fetch(schema.READ_VERSION))[0][0]
            statements = schema.missing(version, WORDS, self.description)
            if statements and not fresh:
                await self._check_unused(connection)
            if fresh:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                statements[:0] = [schema.CREATE_VERSION, schema.INSERT_VERSION]
            for statement in statements:
                await connection.execute(statement)
        self._version = schema.LATEST

    async def _check_unused(self, connection: Connection) -> None:
        """Before the tables change: raise StoreInUse while a server works with them as they are; from here on none can begin to.

        Most often somebody does (we are a newer standby), and is not disturbed by the lock.
        """
        for is_locked in (False, True):
            if is_locked:
                await connection.execute("LOCK TABLE leases IN EXCLUSIVE MODE")
            held = await connection.fetch(f"SELECT owner FROM leases WHERE expires_at > {_NOW} LIMIT 1")
            if held:
                raise StoreInUse(
                    f"{self.description} is in use by another server ({held[0][0]}), and its tables have to change for this version of "
                    "Perdure. Stop that server first, or start this one with --standby to take over when it ends."
                )

    # -- connections ------------------------------------------------------------------------------
    @asynccontextmanager
    async def _connection(self, pool: Pool) -> AsyncGenerator[Connection]:
        """A connection of our own for a moment. Raises StoreError when there is none."""
        if self._closed:
            raise StoreError(f"{self.description} is closed")
        try:
            async with pool.connection() as connection:
                yield connection
        except (CommitUnknown, *BROKEN):
            for each in self._pools:
                each.drop_idle()
            raise

    async def _reconnect(self) -> Connection:
        if self._closed:
            raise StoreError(f"{self.description} is closed")
        try:
            connection = await self._connect()
        except (asyncpg.PostgresError, *BROKEN) as error:
            raise StoreError(f"{self.description}: {_reason(error)}") from error
        # A process of this number in doubt has ended, or there could not be another one.
        self._in_doubt.discard(connection.get_server_pid())
        return connection

    def _failed(self, error: BaseException, connection: Connection, process: int) -> NoReturn:
        """What a change that did not end well means: refused, or unknown."""
        if isinstance(error, asyncpg.UniqueViolationError):
            raise DuplicateRowError(f"PostgreSQL: {error}") from error
        if isinstance(error, asyncpg.PostgresError) and not _session_ended(error):
            raise StoreError(f"PostgreSQL: {error}") from error
        if isinstance(error, asyncpg.InterfaceError) and not connection.is_closed():  # the driver could not encode the arguments
            raise StoreError(f"PostgreSQL: {error}") from error
        self._in_doubt.add(process)
        if isinstance(error, (asyncpg.PostgresError, *BROKEN)):
            raise CommitUnknown(f"{self.description}: the connection broke: {error or type(error).__name__}") from error
        raise error

    # -- reading ----------------------------------------------------------------------------------
    async def _point(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return await self._read(self._reads, statement, arguments)

    async def _read(self, pool: Pool, statement: str, arguments: Sequence[Any]) -> Sequence[Row]:
        try:
            return await self._fetch(pool, statement, arguments)
        except BROKEN:
            pass  # an idle connection that the other side has closed in the meantime shows only when it is used
        except asyncpg.PostgresError as error:
            if not _session_ended(error):
                raise StoreError(f"PostgreSQL: {error}") from error
        try:
            return await self._fetch(pool, statement, arguments)
        except (asyncpg.PostgresError, *BROKEN) as error:
            raise StoreError(f"{self.description}: {error or type(error).__name__}") from error

    async def _scan(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return await self._read(self._reads, statement, arguments)

    async def _fetch(self, pool: Pool, statement: str, arguments: Sequence[Any]) -> Sequence[Row]:
        async with self._connection(pool) as connection:
            return await connection.fetch(statement, *arguments)

    async def acquire_lease(self, partition: int, owner: str, now: int, until: int) -> Lease | None:
        """Raises StoreOpenError when a newer version has changed the tables since this store was opened."""
        rows = await self._change_lease(_ACQUIRE_LEASE, partition, owner, until - now, self._version)
        if rows:
            return Lease(*rows[0])
        version = (await self._read(self._leases, schema.READ_VERSION, ()))[0][0]
        if version != self._version:
            raise schema.too_new(version, self._version, self.description)
        return None

    async def renew_lease(self, lease: Lease, now: int, until: int) -> bool:
        return bool(await self._change_lease(_RENEW_LEASE, lease.partition, lease.epoch, lease.owner, until - now))

    async def read_lease(self, partition: int) -> Lease | None:
        statement = sql.READ_LEASE
        if self._in_doubt:
            await self._end_doubt()
            statement += " FOR UPDATE"
        rows = await self._read(self._leases, statement, (partition,))
        return Lease(*rows[0]) if rows else None

    async def _end_doubt(self) -> None:
        """Return when no server process can still finish a commit that we gave up. Raises StoreError when one will not go."""
        processes = list(self._in_doubt)
        deadline = asyncio.get_running_loop().time() + DOUBT_SECONDS
        while await self._read(self._leases, _IN_DOUBT, (processes, self._name)):
            if asyncio.get_running_loop().time() > deadline:
                raise StoreError(f"{self.description}: the session of a commit in doubt does not end")
            await asyncio.sleep(0.01)
        self._in_doubt.difference_update(processes)

    # -- writing ----------------------------------------------------------------------------------
    async def _change(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return await self._write(self._reads, statement, arguments)

    async def _change_lease(self, statement: str, *arguments: Any) -> Sequence[Row]:
        return await self._write(self._leases, statement, arguments, RENEWAL_SECONDS if statement == _RENEW_LEASE else None)

    async def commit(self, commit: Commit) -> None:
        statement, arguments = commit_statement((commit.partition, commit.epoch, commit.commit_number), sql.commit_rows(commit))
        if not await self._write(self._commits, statement, arguments):
            raise LeaseLost(f"Partition {commit.partition} is no longer owned with epoch {commit.epoch}")

    async def _write(self, pool: Pool, statement: str, arguments: Sequence[Any], seconds: float | None = None) -> Sequence[Row]:
        async with self._connection(pool) as connection:
            process = connection.get_server_pid()
            try:
                return await connection.fetch(statement, *arguments, timeout=seconds)
            except BaseException as error:
                self._failed(error, connection, process)


def _refused(error: BaseException) -> bool:
    """Whether the server said no, and its session is as good as before."""
    if isinstance(error, asyncpg.PostgresError):
        return not _session_ended(error)
    return isinstance(error, StoreError) and not isinstance(error, CommitUnknown)


def _session_ended(error: asyncpg.PostgresError) -> bool:
    return _SESSION_ENDED.fullmatch(state_of(error)) is not None


def _reason(error: Exception) -> str:
    """Why there is no connection, and what to do."""
    text = str(error) or type(error).__name__
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"{text}. Check the user and the password in the URL, and the server's pg_hba.conf."
        case asyncpg.InvalidCatalogNameError():
            return f"{text}. Create it (createdb) or check the name in the URL."
        case asyncpg.InsufficientPrivilegeError():
            return f"{text}. The user must be allowed to create a schema: GRANT CREATE ON DATABASE … TO …"
        case asyncpg.TooManyConnectionsError():
            return f"{text}. Raise max_connections or stop other clients."
        case asyncpg.PostgresError():
            return text
        case ssl.SSLError():
            return f"{text}. Check sslmode and the certificates."
        case TimeoutError():
            return f"no answer within {CONNECT_SECONDS:.0f} s. Check the host and the port in the URL, and the firewall."
        case OSError():
            return f"{text}. Is the server running? Check the host and the port in the URL."
        case asyncpg.InterfaceError():
            return text
        case _:  # no text: it may show a part of the URL
            return (
                "the URL is not of the form postgresql://user:password@host:port/database. Encode special characters as %2F and the like."
            )
