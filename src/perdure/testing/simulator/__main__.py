"""``python -m perdure.testing.simulator``: run simulations, and print the command that repeats one that fails."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from perdure.testing.simulator.simulation import Report, simulate


def main() -> int:
    """0 when every simulation went well."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.simulator", description="Simulate whole servers, each from one seed.")
    parser.add_argument("--seeds", type=int, default=100, help="how many simulations (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="run this one simulation, and show everything that happens with --trace")
    parser.add_argument("--trace", action="store_true", help="print every call and what became of it")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many run at the same time (default: one per CPU)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        _quiet()
        report = simulate(arguments.seed, log_trace=arguments.trace)
        print_report(report)
        print(f"{report.runs} runs, {report.steps} steps, {report.restarts} restarts, {report.store}")
        print(f"{report.answers}\ntrace {report.trace}")
        return 1 if report.failures else 0
    return run_many(range(arguments.first, arguments.first + arguments.seeds), arguments.processes)


def run_many(seeds: range, processes: int | None) -> int:
    """Run simulations side by side; 0 when every one went well."""
    began = time.monotonic()
    failed = runs = steps = restarts = 0
    with ProcessPoolExecutor(processes, initializer=_quiet) as pool:
        for report in pool.map(simulate, seeds):
            runs, steps, restarts = runs + report.runs, steps + report.steps, restarts + report.restarts
            if report.failures:
                failed += 1
                print_report(report)
    seconds = time.monotonic() - began
    print(f"{len(seeds)} simulations, {failed} failed: {runs} workflow runs, {steps} steps, {restarts} restarts in {seconds:.0f} s")
    return 1 if failed else 0


def _quiet() -> None:
    """Servers say a lot when their stores fail; what matters of it is in the reports."""
    logging.getLogger("perdure").addHandler(logging.NullHandler())


def print_report(report: Report) -> None:
    """What is wrong, and how to see it again."""
    if not report.failures:
        return
    print(f"seed {report.seed}: {len(report.failures)} failures; again: {report.command}")
    for failure in report.failures[:5]:
        print(f"  {failure[:4000]}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
