"""The part of asyncpg that the store uses, with types (asyncpg has none)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import asyncpg

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 60.0
"""A statement that takes longer means a lost network or a database that stands still; its connection is given up."""

BROKEN = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What the driver raises when a connection is not there or breaks; a time-out is an OSError."""


class Connection(Protocol):
    """One session with the server."""

    async def execute(self, query: str) -> str: ...

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> Sequence[tuple[Any, ...]]:
        """One statement, prepared when it was seen before: one round trip. A row is a Record, which is as good as a tuple.

        timeout: seconds, COMMAND_SECONDS if None.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]: ...

    def get_server_pid(self) -> int:
        """The process id of the server's side."""
        ...

    def get_server_version(self) -> tuple[int, ...]:
        """Major release first."""
        ...

    def is_closed(self) -> bool: ...

    async def close(self, *, timeout: float | None = None) -> None: ...

    def terminate(self) -> None:
        """Close without a word to the server."""
        ...


async def connect(url: str, settings: Mapping[str, str]) -> Connection:
    """A new session. settings: of the server, for this session. Raises asyncpg's errors, OSError, and ValueError for a bad URL."""
    untyped: Any = asyncpg
    return await untyped.connect(
        url,
        timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
        statement_cache_size=200,
        max_cached_statement_lifetime=0,
        server_settings=dict(settings),
    )


def state_of(error: asyncpg.PostgresError) -> str:
    """The five characters by which the server tells the kind of error (SQLSTATE); "" if it did not."""
    return getattr(error, "sqlstate", None) or ""
