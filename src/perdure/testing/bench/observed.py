"""What can be seen of a server from outside: its CPU time and memory (Linux), its own metrics."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from pathlib import Path

import msgspec

MIB = 1024 * 1024


class Usage(msgspec.Struct, frozen=True):
    """What a server has used up so far. None: it cannot be seen (another machine, another system, another server).

    cpu_seconds: of all threads. commits, rows: made durable.
    """

    cpu_seconds: float | None = None
    commits: float | None = None
    rows: float | None = None

    def since(self, before: Usage) -> Usage:
        """The difference."""
        return Usage(
            _difference(self.cpu_seconds, before.cpu_seconds),
            _difference(self.commits, before.commits),
            _difference(self.rows, before.rows),
        )


class ObservedServer:
    """A server under test.

    address: "host:port". pid: of its process on this machine, if it is known. metrics_url: of its metrics endpoint, if it has one.
    """

    def __init__(self, address: str, pid: int | None = None, metrics_url: str | None = None) -> None:
        self.address = address
        self._pid = pid
        self._metrics_url = metrics_url

    def usage(self) -> Usage:
        """What it has used up until now."""
        cpu = cpu_seconds(self._pid) if self._pid is not None else None
        if self._metrics_url is None:
            return Usage(cpu)
        with urllib.request.urlopen(self._metrics_url, timeout=10) as response:
            text = response.read().decode()
        return Usage(cpu, metric(text, "persistence_requests", operation="Commit"), metric(text, "perdure_commit_rows_sum"))

    @property
    def known_pid(self) -> int:
        """Its process on this machine. Raises ValueError when it is not known."""
        if self._pid is None:
            raise ValueError("the server's process is not known")
        return self._pid

    def resident_mib(self) -> float | None:
        """Memory that it holds now, MiB."""
        return resident_mib(self._pid) if self._pid is not None else None


def cpu_seconds(pid: int) -> float | None:
    """CPU time of a process with all its threads, user and system; None where no process or no such clock exists (only Linux has it)."""
    try:
        # The number that clock_getcpuclockid(3) makes of a process id. /proc tells the same in steps of 10 ms, too coarse for short loads.
        return time.clock_gettime(~pid << 3 | 2)
    except (OSError, OverflowError):
        return None


def resident_mib(pid: int) -> float | None:
    """Resident memory of a process, MiB; None where /proc does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def reference_seconds() -> float:
    """CPU time of a fixed piece of Python: what neighbours do to the CPU times of a run shows here, too."""
    before = time.process_time()
    table: dict[int, str] = {}
    for number in range(200_000):
        table[number % 1000] = str(number)
    return time.process_time() - before


def metric(text: str, name: str, **labels: str) -> float | None:
    """The sum of a metric's samples that have these labels, from Prometheus' text format; None when there is none."""
    samples = [
        float(value)
        for found, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, flags=re.M)
        if all(f'{label}="{wanted}"' in found for label, wanted in labels.items())
    ]
    return sum(samples) if samples else None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
