"""The processes of a benchmark: servers of our own, and the drivers that put load on a server."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

from perdure.testing.bench.observed import ObservedServer

SECONDS_TO_START = 30.0
SECONDS_TO_STOP = 15.0

Result = TypeVar("Result")


class BenchError(Exception):
    """Something could not be measured; the message says what and why."""


@contextlib.contextmanager
def running_server(database: str) -> Generator[ObservedServer]:
    """A server of this installation, in a process of its own, on free ports. database: as for ``perdure server start``."""
    with server_process(database, ["--port", "0", "--metrics-port", "0"]) as process:
        values: dict[str, str] = {}
        assert process.stdout is not None
        while "Temporal Metrics" not in values:
            line = process.stdout.readline()
            if not line:
                raise BenchError(f"the server did not start: {_errors(process)}")
            label, _, value = line.strip().partition(":")
            values[label] = value.strip()
        yield ObservedServer(values["Temporal Server"].replace("localhost", "127.0.0.1"), process.pid, values["Temporal Metrics"])


@contextlib.contextmanager
def server_process(database: str, flags: list[str]) -> Generator[subprocess.Popen[str]]:
    """A server's process, from the moment it is started; ended with the context."""
    command = [sys.executable, "-m", "perdure", "server", "start", "--database", database or ":memory:", "--log-level", "warn", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def seconds_to_first_answer(database: str) -> float:
    """From the start of a server's process to its first answer to a call."""
    from perdure.core.lean_import import defer_sdk

    defer_sdk()
    import grpc
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    request = GetSystemInfoRequest().SerializeToString()
    started = time.perf_counter()
    with server_process(database, ["--port", str(port), "--metrics-port", "off"]) as process:
        _wait_until_listening(process, port, started + SECONDS_TO_START)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Callable[..., object] = channel.unary_unary(  # pyright: ignore[reportUnknownVariableType]
                "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo"
            )
            call(request, timeout=SECONDS_TO_START, wait_for_ready=True)
        return time.perf_counter() - started


def _wait_until_listening(process: subprocess.Popen[str], port: int, until: float) -> None:
    while process.poll() is None and time.perf_counter() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.001)
    raise BenchError(f"the server does not answer: {_errors(process)}")


def _errors(process: subprocess.Popen[str]) -> str:
    process.kill()
    return process.communicate()[1].strip()


class Driver:
    """A process that puts load on a server as it is told; used as a context.

    module: run with -m; it takes jobs and gives answers as JSON, one a line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def do(self, result_type: type[Result], job: str, **arguments: Any) -> Result:
        """Let it do a job and return what it says about it. Raises BenchError when it cannot."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"{self._module} ended in the middle of {job!r}; what it said is above")
        return msgspec.json.decode(answer, type=result_type)
