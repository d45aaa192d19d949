"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client

from perdure.settings import ServerSettings

if TYPE_CHECKING:
    from perdure.app import Server

pytest_plugins = ["tests.support.postgres"]

STORES = ("memory", "sqlite", "postgres")
DURABLE_STORES = ("sqlite", "postgres")


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return ""
        case "sqlite":
            return str(tmp_path / "perdure.db")
        case _:
            return request.getfixturevalue("postgres_url")


@pytest.fixture(params=STORES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a server keeps its data: memory, a SQLite file, an empty PostgreSQL database, one after the other."""
    return _location(request, tmp_path)


@pytest.fixture(params=DURABLE_STORES)
def durable_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same for what outlives a server: a SQLite file, an empty PostgreSQL database."""
    return _location(request, tmp_path)


@pytest.fixture(autouse=True)
def inspector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every step of every server in this process: folding the journal gives the live state, and all that is pending leads to its job."""
    from perdure.engine.engine import Engine
    from perdure.testing.inspector import Inspector

    inspector = Inspector()
    begin_work = Engine.begin_work

    def begin_inspected(engine: Engine) -> None:
        inspector.attach(engine)
        begin_work(engine)

    monkeypatch.setattr(Engine, "begin_work", begin_inspected)
    yield
    inspector.verify()


@pytest.fixture
async def server(database: str) -> AsyncIterator[Server]:
    """A server in this process, on free ports, with the namespace "default"."""
    # Most unit tests need no server, and none of what it is made of.
    from perdure.app import Server

    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=database)) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> Client:
    """The official SDK's client of that server."""
    return await Client.connect(server.grpc_address)
