"""The server as people and SDKs start it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import httpx
import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.app import Server
from perdure.settings import ServerSettings
from tests.support.waiting import until

StartLocal = Callable[..., Awaitable[WorkflowEnvironment]]
SECONDS_TO_START = 20.0


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}"


@workflow.defn(sandboxed=False)
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=10))


@contextlib.asynccontextmanager
async def perdure(*arguments: str) -> AsyncGenerator[Process]:
    """A running `perdure` command; whatever the test does, it ends with the test."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "perdure", *arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def read_banner(process: Process) -> dict[str, str]:
    """Label → value of the lines a server prints once it serves."""
    assert process.stdout is not None
    values: dict[str, str] = {}
    async with asyncio.timeout(SECONDS_TO_START):
        while "Temporal Metrics" not in values:
            line = (await process.stdout.readline()).decode()
            assert line, f"the server ended: {await process.communicate()}"
            label, _, value = line.strip().partition(":")
            values[label] = value.strip()
    return values


async def refusal(*arguments: str) -> str:
    """The one line with which a server refuses to start."""
    async with perdure(*arguments) as process, asyncio.timeout(SECONDS_TO_START):
        output, errors = await process.communicate()
    assert process.returncode == 1, errors.decode()
    assert output == b""
    assert errors.decode().count("\n") == 1, errors.decode()
    return errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_serves_until_a_signal_and_exits_0(number: signal.Signals) -> None:
    async with perdure("server", "start-dev", "--port", "0") as process:
        banner = await read_banner(process)
        assert banner["Temporal Persistence"] == "in-memory"
        assert banner["Temporal Server"].startswith("localhost:")
        client = await Client.connect(banner["Temporal Server"])
        assert await client.service_client.check_health()
        process.send_signal(number)
        async with asyncio.timeout(SECONDS_TO_START):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_standby_answers_probes_and_stops_at_the_first_signal(
    durable_database: str, free_port: int, number: signal.Signals
) -> None:
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database=durable_database)):
        flags = ("--port", "0", "--metrics-port", str(free_port), "--database", durable_database, "--standby")
        async with perdure("server", "start", *flags) as standby, httpx.AsyncClient(trust_env=False) as probe:
            assert standby.stderr is not None
            async with asyncio.timeout(SECONDS_TO_START):
                while b"standing by" not in (line := await standby.stderr.readline()):
                    assert line, "the standby ended"
                assert (await probe.get(f"http://127.0.0.1:{free_port}/healthz")).status_code == 200
                ready = await probe.get(f"http://127.0.0.1:{free_port}/readyz")
                assert (ready.status_code, ready.json()) == (503, {"status": "NOT_SERVING"})
                standby.send_signal(number)
                output, errors = await standby.communicate()
            assert (standby.returncode, output, errors) == (0, b"", b"")


async def test_a_standby_waits_for_the_metrics_port_as_well(tmp_path: Path, free_port: int) -> None:
    """Both servers of one machine may have the same configuration; the first gives up this port last."""
    first = ServerSettings(grpc_port=free_port, metrics_port=None, database=str(tmp_path / "my.db"))
    with socket.socket() as metrics:
        metrics.bind(("127.0.0.1", 0))
        metrics.listen()
        metrics_port = metrics.getsockname()[1]
        flags = ("--port", str(free_port), "--metrics-port", str(metrics_port), "--database", first.database, "--standby")

        async def has_taken_over() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", free_port)
            except ConnectionRefusedError:
                return False
            writer.close()
            return True

        async with Server(first) as running, perdure("server", "start", *flags) as standby:
            assert standby.stderr is not None
            async with asyncio.timeout(SECONDS_TO_START):
                while b"standing by:" not in (line := await standby.stderr.readline()):
                    assert line, "the standby ended"
            await running.__aexit__(None, None, None)
            await until(has_taken_over)
            metrics.close()
            assert (await read_banner(standby))["Temporal Metrics"] == f"http://localhost:{metrics_port}/metrics"


async def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in await refusal("server", "start-dev", "--port", port)
        assert await refusal("server", "start-dev", "--port", "0", "--metrics-port", port) == (
            f"perdure: cannot listen on 127.0.0.1:{port} for metrics and health: port {port} is taken by another process on 127.0.0.1. "
            "Stop that process, or choose another port with --metrics-port (off for none).\n"
        )


async def test_a_file_in_use_is_one_line(tmp_path: Path) -> None:
    file = str(tmp_path / "my.db")
    async with perdure("server", "start-dev", "--port", "0", "--db-filename", file) as first:
        assert (await read_banner(first))["Temporal Persistence"] == file
        assert file in await refusal("server", "start-dev", "--port", "0", "--db-filename", file)


async def test_an_unreachable_postgresql_is_one_line(free_port: int) -> None:
    database = f"postgresql://me:secret@127.0.0.1:{free_port}/perdure"
    line = await refusal("server", "start", "--port", "0", "--metrics-port", "off", "--database", database)
    assert str(free_port) in line
    assert "secret" not in line


async def test_is_an_existing_executable_for_the_sdk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    executable = tmp_path / "perdure"
    executable.write_text(f"#!{sys.executable}\nimport sys\nfrom perdure.cli.main import main\nsys.exit(main())\n", encoding="utf-8")
    executable.chmod(0o755)
    # One of the SDK's generics is open.
    start = cast("StartLocal", WorkflowEnvironment.start_local)  # pyright: ignore[reportUnknownMemberType]
    attribute = SearchAttributeKey.for_keyword("City")
    async with await start(dev_server_existing_path=str(executable), search_attributes=[attribute], ui=True) as environment:
        client = environment.client
        async with Worker(client, task_queue="greetings", workflows=[Greeting], activities=[greet]):
            assert await client.execute_workflow(Greeting.run, "SDK", id="greeting-1", task_queue="greetings") == "Hello, SDK"
    assert capfd.readouterr().err == ""


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys; from perdure.cli.main import build_parser; build_parser(); "
        "print({'asyncio', 'grpc', 'temporalio', 'google.protobuf', 'sqlite3'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert shown.stdout == "set()\n"
