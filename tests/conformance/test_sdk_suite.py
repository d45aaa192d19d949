"""The official Python SDK's own tests against this server, file by file.

They run when ``CONFORMANCE_SDK_REPOSITORY`` names a git directory of the SDK; they are unpacked and installed elsewhere.
``sdk_must_pass.txt`` names what has to pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.conformance import CONFORMANCE, SDK, SDK_REPOSITORY, SDK_SERVER_FLAGS, SDK_VARIABLE, sdk_file, sdk_outcomes
from tests.support.server_process import ServerProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CONFORMANCE / "sdk_python.py").exists(), reason="the suites are not beside this checkout"),
    pytest.mark.skipif(SDK_REPOSITORY is None, reason=f"{SDK_VARIABLE} names no git directory of the SDK"),
    pytest.mark.timeout(1800),
]


FILES: dict[str, list[str]] = defaultdict(list)
"""File → its tests that have to pass."""
for _case in SDK.must_pass:
    FILES[sdk_file(_case)].append(_case)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(str(tmp_path_factory.mktemp("sdk") / "perdure.db"), *SDK_SERVER_FLAGS) as server:
        yield server


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sdk-scratch")


@pytest.mark.parametrize("file", FILES)
def test_the_sdk_finds_what_it_needs(server: ServerProcess, scratch: Path, file: str) -> None:
    outcomes = sdk_outcomes(server.address, [file], scratch)
    assert {case: outcomes.get(case, "missing") for case in FILES[file] if outcomes.get(case) != "passed"} == {}
