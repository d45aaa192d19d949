"""The official features (small workflows whose histories are compared with recorded ones) against this server.

They run when ``CONFORMANCE_FEATURES_REPOSITORY`` names a git directory of temporalio/features; they are unpacked and installed elsewhere.
``features_must_pass.txt`` names what has to pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.conformance import CONFORMANCE, FEATURES, FEATURES_REPOSITORY, FEATURES_VARIABLE, feature_outcomes
from tests.support.server_process import ServerProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CONFORMANCE / "features_python.py").exists(), reason="the suites are not beside this checkout"),
    pytest.mark.skipif(FEATURES_REPOSITORY is None, reason=f"{FEATURES_VARIABLE} names no git directory of the features"),
    pytest.mark.timeout(1800),
]

MUST_PASS = FEATURES.must_pass


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("features")
    with ServerProcess(str(folder / "perdure.db")) as server:
        return feature_outcomes(server.address, MUST_PASS, folder)


@pytest.mark.parametrize("name", MUST_PASS)
def test_the_feature_behaves_as_on_the_official_server(outcomes: Mapping[str, str], name: str) -> None:
    assert outcomes.get(name) == "passed"
