"""The reference pages say what the code does."""

from __future__ import annotations

import pytest

from perdure.cli.main import build_parser
from perdure.cli.server import FLAGS
from perdure.settings import KEYS, MEANING
from tests.tidy.reference import pages
from tests.tidy.source import ROOT


@pytest.mark.parametrize("name", pages())
def test_page_is_as_the_code_writes_it(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run: make reference (python -m tests.tidy.reference)"


def test_every_setting_has_a_meaning_and_every_flag_is_one() -> None:
    assert set(MEANING) == set(KEYS)
    assert set(FLAGS) <= set(KEYS)
    known = build_parser().parse_args(["server", "start"])
    assert {flag.removeprefix("--").replace("-", "_") for flag in FLAGS.values()} <= set(vars(known))
