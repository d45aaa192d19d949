"""E3: the pages of completions take no more memory than they may."""

from __future__ import annotations

from perdure.core.limits import Limits
from perdure.features.workflow.task.completion_pages import CompletionBuffer, CompletionPages

LIMITS = Limits.from_dynamic_config(
    {"history.workflowTaskCompletionBufferTotalSizeLimit": 10, "history.workflowTaskCompletionBufferNamespaceRatio": 0.6}
)


def test_one_namespace_leaves_room_for_others() -> None:
    buffer = CompletionBuffer()
    assert buffer.take("one", 6, LIMITS)
    assert not buffer.take("one", 1, LIMITS)
    assert buffer.take("other", 4, LIMITS)
    assert not buffer.take("third", 1, LIMITS)
    buffer.give_back("one", 6)
    assert buffer.take("one", 6, LIMITS)


def test_pages_that_leave_memory_make_room() -> None:
    buffer = CompletionBuffer()
    pages = CompletionPages((1, 1, 1), buffer, "n")
    assert pages.add(0, [], 6, LIMITS)
    assert not pages.add(1, [], 6, LIMITS)
    assert (list(pages.pages), pages.size) == ([0], 6)
    del pages
    assert buffer.take("n", 6, LIMITS)


def test_there_need_be_no_bound() -> None:
    limits = Limits.from_dynamic_config({"history.workflowTaskCompletionBufferTotalSizeLimit": 0})
    assert CompletionBuffer().take("n", 1 << 40, limits)
