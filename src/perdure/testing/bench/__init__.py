"""``perdure bench``: measures a server through the official SDK, through bare calls, and its engine alone."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit code: 0, 1 when something could not be measured, 2 for bad arguments."""
    from perdure.testing.bench.command import run

    return run(arguments)
