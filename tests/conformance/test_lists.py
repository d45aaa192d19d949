"""The lists of the conformance suites: every case is either to pass or waits for something, and nothing that passed is given up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.comparison import EXPECTED
from tests.support.conformance import (
    DIFFERENTIAL,
    FEATURES,
    LISTS,
    ROOT,
    SCENARIOS,
    SDK,
    SHARED,
    Lists,
    SuiteBroken,
    catalogue_ids,
    feature_cases,
    recorded_scenarios,
    run_suite,
    sdk_cases,
)

DECISIONS = ROOT / "docs" / "decisions"

SUITES = pytest.mark.parametrize(
    ("lists", "cases"), [(SCENARIOS, recorded_scenarios), (SDK, sdk_cases), (FEATURES, feature_cases)], ids=["scenarios", "sdk", "features"]
)
beside_the_suites = pytest.mark.skipif(not SHARED.exists(), reason="the suites are not beside this checkout")


@beside_the_suites
@SUITES
def test_every_case_must_pass_or_waits(lists: Lists, cases: Callable[[], set[str]]) -> None:
    must_pass, waiting = lists.must_pass, lists.waiting
    assert sorted(set(must_pass)) == must_pass, "sorted, each once"
    assert set(must_pass) & set(waiting) == set()
    assert {*must_pass, *waiting} == cases()


@SUITES
def test_what_waits_says_for_what(lists: Lists, cases: Callable[[], set[str]]) -> None:
    decisions = {path.stem for path in DECISIONS.glob("2*.md")}
    known = decisions | catalogue_ids() if SHARED.exists() else decisions
    for case, reason in lists.waiting.items():
        # Without the catalogue only the form of an id can be checked.
        assert reason in known or (not SHARED.exists() and reason[1:].isdigit()), f"{case}: {reason}"


@pytest.mark.parametrize("prefix", [SCENARIOS.prefix, SDK.prefix, FEATURES.prefix])
def test_nothing_that_passed_is_given_up(prefix: str) -> None:
    path = LISTS / f"{prefix}must_pass.txt"
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("what passed before is in the repository's history, which is not here")
    command = ["git", "log", "--patch", "--unified=0", "--format=", "--", str(path)]
    history = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    once = {line[1:] for line in history.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))}
    assert once - set(path.read_text().splitlines()) == set()


@beside_the_suites
def test_own_expectations_differ_and_are_explained() -> None:
    """An expectation that is the official recording serves nothing; each deliberate difference is named in a decision record."""
    records = "\n".join(path.read_text() for path in DECISIONS.glob("2*.md"))
    for path in EXPECTED.glob("*.json"):
        own: Any = json.loads(path.read_text())
        official: Any = json.loads((DIFFERENTIAL / "recordings" / path.name).read_text())
        assert own != official, path.stem
        assert path.stem in records, path.stem


@pytest.mark.parametrize(
    ("program", "ends"),
    [
        ("print('2 passed, 0 failed')", True),
        ("print('1 passed, 1 failed'); exit(1)", True),
        ("print('1 broken'); exit(1)", True),
        ("raise ImportError('no such module')", False),
        ("print('0 broken'); import os, signal; os.kill(os.getpid(), signal.SIGKILL)", False),
    ],
)
def test_a_suite_that_dies_is_not_taken_for_one_with_failing_cases(program: str, ends: bool) -> None:
    command = [sys.executable, "-c", program]
    if ends:
        assert run_suite(command, 30)
    else:
        with pytest.raises(SuiteBroken):
            run_suite(command, 30)
