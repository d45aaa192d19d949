"""A server in this process whose every step is checked: what is in memory is the fold of the journal, and leads to every job."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from perdure.app import Server
from perdure.settings import ServerSettings
from perdure.testing.inspector import Inspector


@asynccontextmanager
async def inspected_server(**settings: Any) -> AsyncGenerator[Server]:
    """On free ports, in memory unless the settings say otherwise. Fails at the end when a step broke an invariant."""
    inspector = Inspector()
    chosen: dict[str, Any] = {"grpc_port": 0, "metrics_port": None, "database": "", **settings}
    async with Server(ServerSettings(**chosen)) as server:
        inspector.attach(server.core.engine)
        yield server
    inspector.verify()
