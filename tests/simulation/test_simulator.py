"""Whole servers simulated from seeds. A failure says which seed, and the command that runs it again."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from perdure.testing.simulator.simulation import Report, simulate

SEEDS = range(200)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_seeds() -> None:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        reports = list(pool.map(simulate, SEEDS, chunksize=5))
    failed = [report for report in reports if report.failures]
    assert not failed, "\n".join(f"{report.command}\n  {report.failures[0]}" for report in failed)
    assert _happened(reports) == []


def test_a_seed_says_everything() -> None:
    first, second = simulate(5), simulate(5)
    assert first == second
    assert first.trace != simulate(6).trace
    # Nor does anything depend on the order of sets, which differs from process to process.
    script = "from perdure.testing.simulator.simulation import simulate; print(simulate(5).trace)"
    for hash_seed in ("1", "2"):
        shown = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}
        )
        assert shown.stdout.strip() == first.trace


def _happened(reports: list[Report]) -> list[str]:
    """What no simulation came across: if it is not empty, the simulations test less than they seem to."""
    counts = {
        "restarts": sum(report.restarts for report in reports),
        "failed commits": sum(report.store.failed for report in reports),
        "unknown commits": sum(report.store.unknown for report in reports),
        "failed reads": sum(report.store.reads_failed for report in reports),
    }
    wanted = (
        "StartWorkflowExecution",
        "StartWorkflowExecution ALREADY_EXISTS",
        "StartWorkflowExecution UNAVAILABLE",
        "SignalWithStartWorkflowExecution",
        "SignalWorkflowExecution",
        "SignalWorkflowExecution NOT_FOUND",
        "RequestCancelWorkflowExecution",
        "TerminateWorkflowExecution",
        "GetWorkflowExecutionHistory",
        "DescribeWorkflowExecution",
        "UpdateWorkflowExecution",
        "PollWorkflowExecutionUpdate",
        "PauseWorkflowExecution",
        "UnpauseWorkflowExecution",
        "DeleteWorkflowExecution",
        "ExecuteMultiOperation",
        "ExecuteMultiOperation ALREADY_EXISTS",
        "ExecuteMultiOperation UNAVAILABLE",
        "UpdateWorkflowExecutionOptions",
        "PauseActivity",
        "PauseActivity FAILED_PRECONDITION",
        "UnpauseActivity",
        "ResetActivity",
        "UpdateActivityOptions",
        "PauseActivityExecution",
        "UnpauseActivityExecution",
        "ResetActivityExecution",
        "UpdateActivityExecutionOptions",
        "ResetWorkflowExecution",
        "ResetWorkflowExecution INVALID_ARGUMENT",
        "ResetWorkflowExecution UNAVAILABLE",
        "RespondWorkflowTaskCompleted INVALID_ARGUMENT",
        "RespondWorkflowTaskCompleted NOT_FOUND",
        "RespondWorkflowTaskFailed",
        "RecordActivityTaskHeartbeat",
        "RespondActivityTaskCanceled",
        "RespondActivityTaskCompleted",
        "RespondActivityTaskCompleted NOT_FOUND",
        "RespondActivityTaskFailed",
    )
    counts |= {answer: sum(report.answers.get(answer, 0) for report in reports) for answer in wanted}
    return [what for what, count in counts.items() if count == 0]
