"""``perdure demo``: a server in this process, an order run on it with the official SDK, its history as a table, and what to do next."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Sequence

from perdure.core.clock import SECOND
from perdure.core.lean_import import defer_sdk
from perdure.settings import ServerSettings

STANDARD_PORT = 7233
GUEST = "perdure.testing.demo_order"
SECONDS_FOR_THE_ORDER = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run the demo, then serve until SIGINT or SIGTERM. Returns the exit code: 0, 1 when the demo did not work, 2 for bad arguments."""
    parsed = _parser().parse_args(arguments)
    # This process is a server only: the SDK's part runs in a process of its own.
    defer_sdk()
    import uvloop

    from perdure.app import StartError
    from perdure.store.protocol import StoreOpenError

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(parsed.database, parsed.port))
    except (StartError, StoreOpenError) as error:
        print(f"perdure demo: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perdure demo", description="Start a server, run a demo workflow on it, and keep serving.")
    parser.add_argument("--database", default="", metavar="DATABASE", help="SQLite file or postgresql:// URL (default: in memory)")
    parser.add_argument(
        "-p", "--port", type=int, metavar="PORT", help=f"gRPC port, 0 for any free one (default {STANDARD_PORT}, or any when it is taken)"
    )
    return parser


async def _run(database: str, port: int | None) -> int:
    from perdure.app import Server
    from perdure.rpc.listening import ListenError, check_free

    stopped = _stop_signal()
    if port is None:
        try:
            check_free("127.0.0.1", STANDARD_PORT)
            port = STANDARD_PORT
        except ListenError:
            port = 0
    async with _guest() as guest, Server(ServerSettings(grpc_port=port, metrics_port=0, database=database, drain_timeout=SECOND)) as server:
        print(f"A server is up at {server.grpc_address} ({server.store.description}).", flush=True)
        assert guest.stdin is not None
        guest.stdin.write(f"{server.grpc_address}\n".encode())
        ended = asyncio.ensure_future(guest.wait())
        stop = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([ended, stop], return_when=asyncio.FIRST_COMPLETED, timeout=SECONDS_FOR_THE_ORDER)
        if not stopped.is_set():
            if not ended.done() or ended.result() != 0:
                print("perdure demo: the demo workflow did not end as it should; see above", file=sys.stderr)
                return 1
            print(_what_next(server.grpc_address, server.metrics_address), flush=True)
            await stopped.wait()
        print("\nStopping.", flush=True)
    return 0


@contextlib.asynccontextmanager
async def _guest() -> AsyncGenerator[asyncio.subprocess.Process]:
    """The process with worker and client, which begins once it is told an address.

    Started before gRPC has threads, which do not go together with a fork. In a session of its own: Ctrl-C is for this process, which
    ends that one.
    """
    guest = await asyncio.create_subprocess_exec(sys.executable, "-m", GUEST, stdin=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        yield guest
    finally:
        with contextlib.suppress(ProcessLookupError):
            guest.kill()
        await guest.wait()


def _stop_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _what_next(address: str, metrics_address: str | None) -> str:
    return f"""
What next, while this server is up:

  Any Temporal SDK connects to {address}. In Python:

      client = await temporalio.client.Client.connect("{address}")

  With the official command line:

      temporal workflow list --address {address}
      temporal workflow show --address {address} --workflow-id demo-order

  Metrics: http://{metrics_address}/metrics

  A server that keeps its data in a file: perdure server start-dev --db-filename dev.db

The server stays up until you press Ctrl-C."""
