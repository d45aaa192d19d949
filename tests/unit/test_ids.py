"""Ids are what they claim to be, and come back from a seed."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.ids import IdSource


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32))
def test_run_ids_are_version_7_and_sort_by_time(now: int, seed: int) -> None:
    ids = IdSource(seed)
    run_id = ids.run_id(now)
    parsed = uuid.UUID(run_id)
    assert str(parsed) == run_id
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now // 1_000_000
    assert run_id < ids.run_id(now + 1_000_000)
    assert run_id == IdSource(seed).run_id(now)


@given(st.integers(0, 2**32))
def test_other_ids_are_random(seed: int) -> None:
    parsed = uuid.UUID(IdSource(seed).uuid())
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
