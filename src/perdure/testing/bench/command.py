"""What ``perdure bench`` does, in order, and how it says it."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from perdure import __version__
from perdure.testing.bench import big, report
from perdure.testing.bench.driver import Load
from perdure.testing.bench.engine_only import EngineLoad
from perdure.testing.bench.observed import ObservedServer, reference_seconds
from perdure.testing.bench.processes import BenchError, Driver, running_server, seconds_to_first_answer
from perdure.testing.bench.report import Report, percentile

SDK_DRIVER = "perdure.testing.bench.sdk_driver"
RAW_DRIVER = "perdure.testing.bench.raw_driver"
ENGINE_ONLY = "perdure.testing.bench.engine_only"

SEQUENCE = 10
"""Activities of a workflow whose steps are measured."""
COLD_STARTS = 3
PARTS = ("start", "sdk", "steps", "raw", "engine")
BIG = "big"
"""Takes minutes, so it is measured only when it is asked for."""


def run(arguments: Sequence[str]) -> int:
    """Measure, or compare two measurements; returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        if parsed.compare:
            first, second = (report.decode(Path(file).read_text(encoding="utf-8")) for file in parsed.compare)
            print(report.comparison(first, second, (Path(parsed.compare[0]).stem, Path(parsed.compare[1]).stem)))
            return 0
        if parsed.profile:
            return subprocess.run([sys.executable, "-m", ENGINE_ONLY, str(parsed.workflows), "--profile"], check=False).returncode
        measured = _measure(parsed)
    except (BenchError, OSError, ValueError) as error:
        print(f"perdure bench: {error}", file=sys.stderr)
        return 1
    print(report.encode(measured) if parsed.json else report.table(measured))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perdure bench", description="Measure a server: throughput, latency, CPU, memory.")
    parser.add_argument("--workflows", type=_positive, default=1000, metavar="N", help="workflows of each load (default 1000)")
    parser.add_argument(
        "--concurrency", type=_positive, nargs="+", default=[50, 300], metavar="N", help="workflows at a time (default 50 300)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*PARTS, BIG], default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)} (all by default), and {BIG}: executions with many events, and many idle ones",
    )  # fmt: skip
    parser.add_argument("--idle", type=_positive, default=100_000, metavar="N", help="idle runs of the part big (default 100,000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--compare", nargs=2, metavar="FILE", help="print two JSON results side by side, and measure nothing")
    parser.add_argument("--profile", action="store_true", help="print where the engine alone spends its time, and measure nothing else")
    own = parser.add_argument_group("a server of its own (the default)")
    own.add_argument("--database", metavar="DATABASE", help="SQLite file, postgresql:// URL, or :memory: (default: a temporary file)")
    other = parser.add_argument_group("any other server that speaks the Temporal API and has the namespace default")
    other.add_argument("--address", metavar="HOST:PORT", help="where it listens")
    other.add_argument("--server-pid", type=int, metavar="PID", help="its process on this machine, for CPU and memory")
    other.add_argument("--metrics", metavar="URL", help="its metrics endpoint, for commits and rows (Perdure only)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _measure(parsed: argparse.Namespace) -> Report:
    measured = Report(_conditions(parsed))
    reference = [reference_seconds()]
    with _database(parsed) as database:
        if "start" in parsed.only and not parsed.address:
            _say(parsed, "cold starts")
            starts = [seconds_to_first_answer(database) for _ in range(COLD_STARTS)]
            measured.add("start to first answer", percentile(starts, 50) * 1000, "ms")
        if {"sdk", "steps", "raw"} & set(parsed.only):
            with _server(parsed, database) as server:
                _loads(parsed, server, measured)
        if "engine" in parsed.only and not parsed.address:
            _say(parsed, "the engine alone")
            output = subprocess.run([sys.executable, "-m", ENGINE_ONLY, str(parsed.workflows)], check=True, stdout=subprocess.PIPE).stdout
            times = msgspec.json.decode(output, type=EngineLoad).per_transition()
            for percent in (10, 50):
                measured.add(f"engine alone: CPU per transition p{percent}", percentile(times, percent) * 1e6, "µs")
        if BIG in parsed.only and not parsed.address:
            _say(parsed, "big executions and idle ones")
            big.measure(measured, database, parsed.idle)
    reference.append(reference_seconds())
    measured.add("reference: CPU of a fixed piece of Python, before", reference[0] * 1000, "ms", less_is_better=None)
    measured.add("reference: the same, after", reference[1] * 1000, "ms", less_is_better=None)
    return measured


def _loads(parsed: argparse.Namespace, server: ObservedServer, measured: Report) -> None:
    """Everything that needs a running server."""
    _add_memory(measured, server, "resident memory, idle")
    workflows = 0
    if {"sdk", "steps"} & set(parsed.only):
        with Driver(SDK_DRIVER, server.address) as driver:
            alone = max(10, min(parsed.workflows // 10, 200))
            driver.do(Load, "workflows", count=10, concurrency=1)
            if "sdk" in parsed.only:
                _say(parsed, "workflows through the SDK")
                _add_load(measured, server, driver, "sdk", alone, 1)
                for concurrency in parsed.concurrency:
                    _add_load(measured, server, driver, "sdk", parsed.workflows, concurrency)
                workflows = 10 + alone + parsed.workflows * len(parsed.concurrency)
            if "steps" in parsed.only:
                _say(parsed, "steps in sequence")
                load = driver.do(Load, "sequence", count=max(3, alone // 5), steps=SEQUENCE)
                measured.add_latencies("sdk, alone: step", load.steps)
    if "raw" in parsed.only:
        _say(parsed, "workflows through bare calls")
        with Driver(RAW_DRIVER, server.address) as driver:
            driver.do(Load, "workflows", count=10, concurrency=1)
            for concurrency in parsed.concurrency:
                _add_load(measured, server, driver, "raw", parsed.workflows, concurrency)
        workflows += 10 + parsed.workflows * len(parsed.concurrency)
    _add_memory(measured, server, f"resident memory, after {workflows:,} workflows")


def _add_load(measured: Report, server: ObservedServer, driver: Driver, how: str, count: int, concurrency: int) -> None:
    before = server.usage()
    load = driver.do(Load, "workflows", count=count, concurrency=concurrency)
    used = server.usage().since(before)
    name = f"{how}, {concurrency} at a time" if concurrency > 1 else f"{how}, alone"
    measured.add(f"{name}: throughput", count / load.seconds, "workflows/s", less_is_better=False)
    measured.add_latencies(f"{name}: workflow", load.latencies)
    if used.cpu_seconds is not None:
        measured.add(f"{name}: server CPU per workflow", used.cpu_seconds / count * 1000, "ms")
        measured.add(f"{name}: server CPU", used.cpu_seconds / load.seconds * 100, "% of a core", less_is_better=None)
    if used.commits is not None:
        measured.add(f"{name}: commits per workflow", used.commits / count, "")
    if used.rows is not None:
        measured.add(f"{name}: rows per workflow", used.rows / count, "")


def _add_memory(measured: Report, server: ObservedServer, name: str) -> None:
    resident = server.resident_mib()
    if resident is not None:
        measured.add(name, resident, "MiB")


def _conditions(parsed: argparse.Namespace) -> dict[str, str]:
    server = f"the server at {parsed.address}" if parsed.address else f"Perdure {__version__}"
    conditions = {"server": server}
    if not parsed.address:
        conditions["database"] = (parsed.database or "SQLite, temporary file").split("@")[-1]
    conditions["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, {platform.machine()}, {_model()}"
    conditions["python"] = platform.python_version()
    conditions["load"] = f"{parsed.workflows:,} one-activity workflows each; drivers and server share the machine"
    conditions["load average"] = f"{os.getloadavg()[0]:.1f} before"
    return conditions


def _model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


@contextlib.contextmanager
def _database(parsed: argparse.Namespace) -> Generator[str]:
    if parsed.database or parsed.address:
        yield parsed.database or ""
        return
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        yield str(Path(folder) / "bench.db")


@contextlib.contextmanager
def _server(parsed: argparse.Namespace, database: str) -> Generator[ObservedServer]:
    if parsed.address:
        yield ObservedServer(parsed.address, parsed.server_pid, parsed.metrics)
        return
    with running_server(database) as server:
        yield server


def _say(parsed: argparse.Namespace, what: str) -> None:
    """Progress, on standard error, for people."""
    if sys.stderr.isatty() and not parsed.json:
        print(f"measuring {what} …", file=sys.stderr)
