"""Runs a server in the foreground until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from urllib.parse import urlsplit

from perdure import __version__
from perdure.app import Server, StartError
from perdure.cli.parser import CommandError
from perdure.settings import ServerSettings
from perdure.store.protocol import StoreOpenError

# SIGHUP: the terminal was closed; the official development server stops on it too.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_server(settings: ServerSettings) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP, then drain. Returns exit code 0. Raises CommandError when the server cannot start."""
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings))
    except (StartError, StoreOpenError) as error:
        raise CommandError(str(error)) from None


async def _serve(settings: ServerSettings) -> int:
    signals = _StopSignals()
    try:
        async with Server(settings) as server:
            signals.is_serving = True
            _collect_rarely()
            print(_banner(settings, server.grpc_address, server.metrics_address), flush=True)
            await _first_of(signals.came, server.fenced)
            if server.core.engine.has_broken_down:
                raise CommandError("a part of this server has failed (see the log); it has stopped, so that another can take over")
            if server.fenced.is_set():
                raise CommandError("another server has taken over the database; this one has stopped")
        if server.core.engine.has_given_up:
            raise CommandError(
                "the database did not answer in time; this server has stopped, and the last calls were told that their outcome is not known"
            )
    except asyncio.CancelledError:
        if signals.is_serving:
            # A second signal: whoever stops the server does not want to wait for calls in progress. Nothing acknowledged is lost.
            print("perdure: stopped without waiting for calls in progress", file=sys.stderr)
    return 0


def _collect_rarely() -> None:
    """What a server keeps in memory is freed by reference counts. Searching it for cycles, again and again while it grows, would cost more
    CPU than the workflows themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class _StopSignals:
    """Listens for the signals that stop a server; `came` is set by the first.

    A server that does not serve yet (a standby may wait for days) has nobody to drain: the first signal ends it by cancelling the task that
    made this. So does the second one while it serves.
    """

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.is_serving = False
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        for number in _STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.came.is_set() or not self.is_serving:
            self._task.cancel()
        self.came.set()


def _banner(settings: ServerSettings, grpc_address: str, metrics_address: str | None) -> str:
    """What people read, and what their scripts look for: the labels are those of the official development server."""
    lines = [
        f"Perdure {__version__}",
        "",
        f"Temporal Server:      {_friendly(grpc_address)}",
        f"Temporal Persistence: {_persistence(settings)}",
    ]
    if metrics_address is not None:
        lines.append(f"Temporal Metrics:     http://{_friendly(metrics_address)}/metrics")
    return "\n".join(lines)


def _persistence(settings: ServerSettings) -> str:
    if not settings.is_postgresql:
        return settings.database or "in-memory"
    url = urlsplit(settings.database)
    return f"PostgreSQL {url.hostname or 'localhost'}{url.path}"


def _friendly(address: str) -> str:
    return address.replace("127.0.0.1:", "localhost:")
