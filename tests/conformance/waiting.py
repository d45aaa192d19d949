"""``python -m tests.conformance.waiting``: run all that still waits for a feature, and say what passes by now.

What is printed can be moved from the suite's ``waiting.txt`` to its ``must_pass.txt``. Suites that are not here are left out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.conformance.comparison import difference, load_harness
from tests.support.conformance import (
    DIFFERENTIAL,
    FEATURES,
    FEATURES_REPOSITORY,
    SCENARIOS,
    SDK,
    SDK_REPOSITORY,
    SDK_SERVER_FLAGS,
    feature_outcomes,
    record_scenarios,
    sdk_file,
    sdk_outcomes,
)
from tests.support.server_process import ServerProcess


def main() -> int:
    ran = False
    with tempfile.TemporaryDirectory() as folder, ServerProcess(str(Path(folder) / "perdure.db"), *SDK_SERVER_FLAGS) as server:
        if (DIFFERENTIAL / "harness.py").exists():
            ran = True
            tell("scenarios", passing_scenarios(server.address, Path(folder) / "scenarios"))
        if SDK_REPOSITORY is not None:
            ran = True
            files = sorted({sdk_file(case) for case in SDK.waiting})
            outcomes = sdk_outcomes(server.address, files, Path(folder))
            tell("tests of the SDK", (case for case in SDK.waiting if outcomes.get(case) == "passed"))
        if FEATURES_REPOSITORY is not None:
            ran = True
            outcomes = feature_outcomes(server.address, list(FEATURES.waiting), Path(folder))
            tell("features", (case for case in FEATURES.waiting if outcomes.get(case) == "passed"))
    if not ran:
        print("no suite is here; tests/support/conformance.py says where they are looked for", file=sys.stderr)
    return 0 if ran else 1


def passing_scenarios(address: str, folder: Path) -> list[str]:
    """Scenarios that wait, and agree with the official server's recording all the same."""
    waiting = list(SCENARIOS.waiting)
    record_scenarios(address, folder, waiting, 8)
    harness = load_harness()
    return [name for name in waiting if not difference(harness, name, folder)]


def tell(what: str, cases: Iterable[str]) -> None:
    found = list(cases)
    print(f"{what} that wait but pass: {len(found)}", *found, sep="\n    ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
