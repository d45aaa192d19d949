"""`perdure bench` as people run it, with little to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.app import Server
from perdure.settings import ServerSettings
from perdure.testing.bench import main, report

SECONDS = 100.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "perdure", "bench", *arguments], capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.slow
def test_measures_a_server_of_its_own() -> None:
    done = run("--workflows", "10", "--concurrency", "5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    measured = report.decode(done.stdout)
    figures = {figure.name: figure for figure in measured.figures}
    assert {"server", "database", "machine", "python", "load"} <= set(measured.conditions)
    for name in (
        "start to first answer",
        "resident memory, idle",
        "sdk, alone: workflow p50",
        "sdk, alone: step p99",
        "sdk, 5 at a time: throughput",
        "sdk, 5 at a time: server CPU per workflow",
        "raw, 5 at a time: workflow p99",
        "raw, 5 at a time: rows per workflow",
        "engine alone: CPU per transition p10",
    ):
        assert figures[name].value > 0, name
    assert 0 < figures["sdk, alone: commits per workflow"].value <= 7


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time of other processes is seen on Linux only")
def test_a_big_execution_costs_what_changes_in_it_not_what_it_carries() -> None:
    """The budget is 1.2; what other processes do to a CPU time is allowed for. The start is the second one after a kill -9."""
    done = run("--only", "big", "--idle", "2000", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = {figure.name: figure.value for figure in report.decode(done.stdout).figures}
    ratios = {name: value for name, value in figures.items() if name.endswith("last by first")}
    assert len(ratios) == 3
    assert all(ratio < 2 for ratio in ratios.values()), ratios
    assert figures["start to first answer, with all that, after kill -9"] > 0


@pytest.mark.slow
async def test_measures_any_server_and_leaves_out_what_it_cannot_see() -> None:
    import asyncio

    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database="")) as server:
        arguments = ["--address", server.grpc_address, "--workflows", "10", "--concurrency", "5", "--only", "raw"]
        done = await asyncio.to_thread(run, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "raw, 5 at a time: throughput" in done.stdout
    assert "server CPU" not in done.stdout
    assert "resident memory" not in done.stdout


def test_compares_two_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("old", 4.0), ("new", 2.0)):
        text = report.encode(report.Report({}, [report.Figure("cpu", value, "ms")]))
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    assert main(["--compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 0
    assert capsys.readouterr().out.split() == ["old", "new", "ratio", "cpu", "4.00", "2.00", "0.50", "×", "(better)", "ms"]


def test_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing.json")
    assert main(["--compare", missing, missing]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_does_not_answer_is_said(free_port: int) -> None:
    done = run("--address", f"127.0.0.1:{free_port}", "--workflows", "1", "--only", "raw")
    assert done.returncode == 1
    assert "perdure bench: " in done.stderr
