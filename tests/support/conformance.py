"""Suites of others by which this server is measured: where they lie, and which of their cases have to pass.

They are no part of the project. What a suite consists of and what the official server made of each case lies in a folder beside the
checkout, or where the environment says. No variable begins with PERDURE_: a server refuses those that are no settings.

``CONFORMANCE_SHARED``: that folder; ``../shared`` if not given.
``CONFORMANCE_SDK_REPOSITORY``, ``CONFORMANCE_FEATURES_REPOSITORY``: git directories of the official Python SDK and of its features;
clones beside the checkout, ``../sdk-python`` and ``../features``, if not given.
``CONFORMANCE_SCRATCH``: a folder for what these unpack and install; a temporary one if not given.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTS = ROOT / "tests" / "conformance"
SHARED = Path(os.environ.get("CONFORMANCE_SHARED", ROOT.parent / "shared"))
DIFFERENTIAL = SHARED / "differential"
CONFORMANCE = SHARED / "conformance"

SDK_VARIABLE = "CONFORMANCE_SDK_REPOSITORY"
FEATURES_VARIABLE = "CONFORMANCE_FEATURES_REPOSITORY"
SCRATCH_VARIABLE = "CONFORMANCE_SCRATCH"


def _repository(variable: str, name: str) -> Path | None:
    given, beside = os.environ.get(variable), ROOT.parent / name / ".git"
    return Path(given) if given else beside if beside.exists() else None


SDK_REPOSITORY = _repository(SDK_VARIABLE, "sdk-python")
FEATURES_REPOSITORY = _repository(FEATURES_VARIABLE, "features")
"""None where there is none: the suite cannot run."""


def missing_suites() -> list[str]:
    """Which suites cannot run here, and what each of them lacks."""
    missing: list[str] = []
    if not (DIFFERENTIAL / "harness.py").exists():
        missing.append(f"recorded scenarios: {DIFFERENTIAL} is not there; CONFORMANCE_SHARED names another folder than {SHARED}")
    for suite, script, repository, variable in (
        ("the SDK's own tests", "sdk_python.py", SDK_REPOSITORY, SDK_VARIABLE),
        ("features", "features_python.py", FEATURES_REPOSITORY, FEATURES_VARIABLE),
    ):
        if not (CONFORMANCE / script).exists():
            missing.append(f"{suite}: {CONFORMANCE / script} is not there; CONFORMANCE_SHARED names another folder than {SHARED}")
        elif repository is None:
            missing.append(f"{suite}: {variable} names no git directory")
    return missing


SDK_SERVER_FLAGS = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=50")
"""What a server needs for the SDK's tests: one of them wants to hear early that it should continue as new."""

DIFFERENTIAL_SECONDS = 800
"""What all scenarios may take together."""


class SuiteBroken(Exception):
    """A suite did not run to its end, so that its outcomes say nothing."""


@dataclass(frozen=True)
class Lists:
    """What is expected of a suite's cases. prefix: of the names of the files.

    ``must_pass.txt`` has a case per line and only grows. ``waiting.txt`` has the others, each with what it waits for: an id of the
    catalogue, or the name of the decision not to do the same.
    """

    prefix: str

    @property
    def must_pass(self) -> list[str]:
        return (LISTS / f"{self.prefix}must_pass.txt").read_text().splitlines()

    @property
    def waiting(self) -> dict[str, str]:
        """Case → what it waits for."""
        lines = (LISTS / f"{self.prefix}waiting.txt").read_text().splitlines()
        pairs = [(case, reason) for case, _, reason in (line.rpartition(" ") for line in lines)]
        assert len(dict(pairs)) == len(pairs), f"a case stands twice in {self.prefix}waiting.txt"
        return dict(pairs)


SCENARIOS = Lists("")
SDK = Lists("sdk_")
FEATURES = Lists("features_")


def recorded_scenarios() -> set[str]:
    """All scenarios of which there is a recording of the official server."""
    return {path.stem for path in (DIFFERENTIAL / "recordings").glob("*.json")}


def sdk_cases() -> set[str]:
    """Tests of the SDK that need a server and pass on the official one."""
    rows = [line.split("\t") for line in (CONFORMANCE / "sdk-python-reference.tsv").read_text().splitlines()]
    return {case for case, outcome, needs in rows if (outcome, needs) == ("passed", "server")}


def feature_cases() -> set[str]:
    """Features that the official server passes."""
    rows = [line.split("\t") for line in (CONFORMANCE / "features-python-reference.tsv").read_text().splitlines()]
    return {case for case, outcome in rows if outcome == "passed"}


def catalogue_ids() -> set[str]:
    """The ids of all that the server is to do."""
    lines = (SHARED / "mission.md").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith("- ") and line.split()[1][1:].isdigit()}


def record_scenarios(address: str, folder: Path, names: Iterable[str], concurrency: int) -> None:
    """Drive the server at an address through scenarios and write down what it answers. Raises SuiteBroken."""
    names = list(names)
    command = [sys.executable, str(DIFFERENTIAL / "harness.py"), "record", address, str(folder)]
    run_suite([*command, "--concurrency", str(concurrency), "--only", *names], DIFFERENTIAL_SECONDS)
    lost = [name for name in names if not (folder / f"{name}.json").exists()]
    if lost:
        raise SuiteBroken(f"not recorded: {', '.join(lost)}")


def sdk_file(case: str) -> str:
    """The file of a test, which is named by its module, its class if it has one, and its name."""
    parts = case.partition("::")[0].split(".")
    module = next(number for number, part in enumerate(parts) if part.startswith("test_"))
    return "/".join(parts[: module + 1]) + ".py"


def sdk_outcomes(address: str, files: Sequence[str], folder: Path) -> Mapping[str, str]:
    """Test → outcome, of the SDK's tests in some files, such as "tests/test_client.py". folder: for what may be forgotten afterwards."""
    return _suite_outcomes("sdk_python.py", address, SDK_REPOSITORY, files, folder, seconds=1700)


def feature_outcomes(address: str, features: Sequence[str], folder: Path) -> Mapping[str, str]:
    """Feature → outcome. folder: for what may be forgotten afterwards."""
    return _suite_outcomes("features_python.py", address, FEATURES_REPOSITORY, features, folder, seconds=1700)


def _suite_outcomes(
    script: str, address: str, repository: Path | None, selection: Sequence[str], folder: Path, *, seconds: float
) -> Mapping[str, str]:
    written = folder / f"{script}.tsv"
    written.unlink(missing_ok=True)
    scratch = Path(os.environ.get(SCRATCH_VARIABLE, folder)) / script.removesuffix(".py")
    command = [sys.executable, str(CONFORMANCE / script), address, "--repository", str(repository), "--scratch", str(scratch)]
    printed = run_suite([*command, "--write", str(written), *selection], seconds)
    if not written.exists():
        raise SuiteBroken(printed)
    rows = [line.split("\t") for line in written.read_text().splitlines()]
    return {row[0]: row[1] for row in rows}


def run_suite(command: list[str], seconds: float) -> str:
    """What a suite printed that ran to its end, whatever its cases came to. Raises SuiteBroken, and subprocess.TimeoutExpired."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    # It exits with 1 when cases failed, but Python does so too when it dies: the last line, which counts the cases, tells them apart.
    last = done.stdout.rstrip().rpartition("\n")[2]
    if done.returncode not in (0, 1) or not last.endswith((" broken", " failed")):
        raise SuiteBroken(f"exit code {done.returncode} of {' '.join(command[1:4])} …:\n{done.stdout[-4000:]}")
    return done.stdout
