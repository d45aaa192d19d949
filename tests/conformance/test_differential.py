"""E1–E10: what the official server did in hundreds of scenarios, and what this one does.

The scenarios and the official server's recordings lie beside a checkout (``../shared/differential``), not in it; elsewhere these tests are
skipped. ``must_pass.txt`` names what has to agree, wording of errors included; it only grows. A deliberate difference has a decision record
and an expectation of our own under ``expected/``, which takes the place of the official recording.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.server_process import ServerProcess

HERE = Path(__file__).parent
DIFFERENTIAL = Path(os.environ.get("PERDURE_DIFFERENTIAL", HERE.parents[2] / "shared" / "differential"))
MUST_PASS = [line for line in (HERE / "must_pass.txt").read_text().split() if line]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DIFFERENTIAL / "harness.py").exists(), reason="the scenarios are not beside this checkout"),
    pytest.mark.timeout(900),
]


def load_harness() -> ModuleType:
    """The comparison of the harness, as it is: it is never weakened here."""
    specification = importlib.util.spec_from_file_location("differential_harness", DIFFERENTIAL / "harness.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def record(address: str, out: Path, names: list[str], concurrency: int) -> None:
    """Drive our server through scenarios and write down what it answers."""
    command = [sys.executable, str(DIFFERENTIAL / "harness.py"), "record", address, str(out)]
    command += ["--concurrency", str(concurrency), "--only", *names]
    subprocess.run(command, check=False, capture_output=True, timeout=800)


def difference(harness: ModuleType, name: str, recorded: Path) -> list[str]:
    """What differs between the expectation and a recording of ours; empty when they agree."""
    own = HERE / "expected" / f"{name}.json"
    expected: Any = json.loads((own if own.exists() else DIFFERENTIAL / "recordings" / f"{name}.json").read_text())
    path = recorded / f"{name}.json"
    actual: Any = json.loads(path.read_text()) if path.exists() else {}
    return harness.differences(expected, actual)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def differences(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """Scenario → differences, of all that must pass. What differs is run once more, alone: scenarios race against a busy machine."""
    folder = tmp_path_factory.mktemp("differential")
    database = str(folder / "perdure.db") if request.param == "sqlite" else request.getfixturevalue("session_postgres_url")
    harness = load_harness()
    with ServerProcess(database) as server:
        record(server.address, folder / "all", MUST_PASS, 4)
        found = {name: difference(harness, name, folder / "all") for name in MUST_PASS}
        again = [name for name, lines in found.items() if lines]
        if again:
            record(server.address, folder / "again", again, 1)
            found.update({name: difference(harness, name, folder / "again") for name in again})
        yield found


@pytest.mark.parametrize("name", MUST_PASS)
def test_agrees_with_the_official_server(differences: dict[str, list[str]], name: str) -> None:
    assert differences[name] == []


def test_own_expectations_are_explained() -> None:
    """Each deliberate difference is named in a decision record."""
    records = "\n".join(path.read_text() for path in (HERE.parents[1] / "docs" / "decisions").glob("*.md"))
    unexplained = [path.stem for path in (HERE / "expected").glob("*.json") if path.stem not in records]
    assert unexplained == []
