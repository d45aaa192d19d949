"""What differs between a recording of the official server, or the expectation that takes its place, and one of ours."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.conformance import DIFFERENTIAL

EXPECTED = Path(__file__).parent / "expected"


def load_harness() -> ModuleType:
    """The comparison of the harness, as it is: it is never weakened here."""
    specification = importlib.util.spec_from_file_location("differential_harness", DIFFERENTIAL / "harness.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def difference(harness: ModuleType, name: str, recorded: Path) -> list[str]:
    """What differs between the expectation of a scenario and a recording of ours; empty when they agree."""
    own = EXPECTED / f"{name}.json"
    expected: Any = json.loads((own if own.exists() else DIFFERENTIAL / "recordings" / f"{name}.json").read_text())
    return harness.differences(expected, json.loads((recorded / f"{name}.json").read_text()))
