"""Search attributes that the server itself sets on a run; they are no events, they follow from the state."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

from temporalio.api.common.v1 import Payload

from perdure.features.workflow.run.properties import merge_search_attributes
from perdure.features.workflow.state import WorkflowState


@functools.lru_cache(1000)
def _as_json(keywords: tuple[str, ...]) -> bytes:
    return json.dumps(list(keywords), separators=(",", ":"), ensure_ascii=False).encode()


def set_keywords(state: WorkflowState, name: str, keywords: Sequence[str]) -> None:
    """Give a run these keywords under a name; none removes the name."""
    data = _as_json(tuple(keywords))
    old = state.search_attributes.get(name)
    if old.data == data if old is not None else not keywords:
        return
    merge_search_attributes(state, {name: Payload(metadata={"encoding": b"json/plain", "type": b"KeywordList"}, data=data)})
