"""What the conformance tests say at the end of a run."""

from __future__ import annotations

import pytest

from tests.support.conformance import missing_suites

REPEATED = pytest.StashKey[list[str]]()
"""Scenarios that agreed only in a second run, with what differed in the first."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if missing := missing_suites():
        terminalreporter.section("conformance suites that could not run")
        for line in missing:
            terminalreporter.write_line(line)
    if REPEATED in config.stash:
        terminalreporter.section("scenarios that were run once more, alone")
        for line in config.stash[REPEATED]:
            terminalreporter.write_line(line)
