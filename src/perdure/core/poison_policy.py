"""The poison policy: what becomes of a run whose workflow task fails in the same way again and again.

It is given as JSON: ``{"action": "pause", "after": 10, "workflow_types": {"Order": {"action": "fail", "after": 5}}}``. What is said under
``workflow_types`` holds for runs of that type, the rest for all others.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec

NAMESPACE_KEY = "perdure.poison-policy"
"""Under this key a namespace's data holds its own policy."""

EXAMPLE = '{"action": "pause", "after": 10, "workflow_types": {"Order": {"action": "fail", "after": 5}}}'


class PoisonRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do after so many failures in a row that are alike.

    after: how many. count_timeouts: tasks that were never answered count as alike even when no failure was reported before them (a worker
    that the workflow crashes, but also a worker that is stopped too often).
    """

    action: Literal["keep-retrying", "pause", "fail"] = "keep-retrying"
    after: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    count_timeouts: bool = False


class PoisonPolicy(PoisonRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """workflow_types: rules for single workflow types; its own rule holds for all others."""

    workflow_types: dict[str, PoisonRule] = {}

    def rule(self, workflow_type: str) -> PoisonRule:
        return self.workflow_types.get(workflow_type, self)


@functools.lru_cache(maxsize=256)
def parse_poison_policy(text: str) -> PoisonPolicy:
    """The policy that a JSON text describes; "" keeps retrying. Raises ValueError, which says what is wrong and what it must look like."""
    if not text:
        return PoisonPolicy()
    try:
        return msgspec.json.decode(text, type=PoisonPolicy)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a poison policy: {error}; it looks like {EXAMPLE}") from None
