"""The part ``big``: what an event costs when there are many already, and what executions cost that do nothing."""

from __future__ import annotations

import os
import signal

from perdure.testing.bench.big_driver import EVENTS_PER_ROUND
from perdure.testing.bench.driver import Load
from perdure.testing.bench.observed import ObservedServer
from perdure.testing.bench.processes import Driver, running_server, seconds_to_first_answer
from perdure.testing.bench.report import Report

BIG_DRIVER = "perdure.testing.bench.big_driver"

EVENTS = 50_000
SIGNALS = 10_000
"""The most that one run takes (``history.maximumSignalsPerExecution``)."""
ACTIVITIES = 2_000
"""The most that may be pending (``limit.numPendingActivities.error``)."""
BLOCKS = 5
"""Into so many each load is cut; the first and the last one are compared."""


def measure(measured: Report, database: str, idle: int) -> None:
    """Load a server of its own on that database, kill it, and see how soon it is back. idle: how many idle runs."""
    empty = seconds_to_first_answer(database)
    with running_server(database) as server:
        with Driver(BIG_DRIVER, server.address) as driver:
            rounds = EVENTS // EVENTS_PER_ROUND
            _blocks(measured, server, driver, "events", rounds, EVENTS_PER_ROUND, f"{EVENTS:,} events in one run: CPU per event")
            driver.do(Load, "open_signals", count=1)
            _blocks(measured, server, driver, "signals", SIGNALS, 1, f"{SIGNALS:,} signals to one run: CPU per signal")
            driver.do(Load, "open_activities", count=ACTIVITIES)
            _blocks(measured, server, driver, "activities", ACTIVITIES, 1, f"{ACTIVITIES:,} pending activities: CPU per activity")
            before = server.resident_mib()
            driver.do(Load, "idle", count=idle)
            after = server.resident_mib()
            if before is not None and after is not None:
                measured.add(f"{idle:,} idle runs: resident memory before", before, "MiB")
                measured.add(f"{idle:,} idle runs: resident memory after", after, "MiB")
        os.kill(server.known_pid, signal.SIGKILL)
    measured.add("start to first answer, empty", empty * 1000, "ms")
    measured.add("start to first answer, with all that, after kill -9", seconds_to_first_answer(database) * 1000, "ms")
    with running_server(database) as server:
        resident = server.resident_mib()
        if resident is not None:
            measured.add("resident memory after that start", resident, "MiB")


def _blocks(measured: Report, server: ObservedServer, driver: Driver, job: str, count: int, each: int, name: str) -> None:
    """each: what one piece of the job counts for in the figure."""
    used: list[float] = []
    for _ in range(BLOCKS):
        before = server.usage()
        driver.do(Load, job, count=count // BLOCKS)
        cpu_seconds = server.usage().since(before).cpu_seconds
        if cpu_seconds is None:
            return
        used.append(cpu_seconds / (count // BLOCKS * each))
    measured.add(f"{name}, first {100 // BLOCKS} %", used[0] * 1e6, "µs")
    measured.add(f"{name}, last {100 // BLOCKS} %", used[-1] * 1e6, "µs")
    measured.add(f"{name}, last by first", used[-1] / used[0], "×")
