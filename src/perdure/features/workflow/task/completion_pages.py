"""Completions of a workflow task that come in pages, because their commands do not fit one message.

The pages before the last are kept in memory only. If they are lost, the last one is answered so that the worker sends all again.
"""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.command.v1 import Command
from temporalio.api.errordetails.v1 import WorkflowTaskCompletionBufferLostFailure
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from perdure.core.errors import ApiError, Code, invalid_argument
from perdure.features.workflow.state import WorkflowTask
from perdure.features.workflow.step import WorkflowStep

TaskId = tuple[int, int, int]


class CompletionPages:
    """The pages received for one workflow task. size: of their commands, bytes."""

    __slots__ = ("pages", "size", "task")

    def __init__(self, task: TaskId) -> None:
        self.task = task
        self.pages: dict[int, list[Command]] = {}
        self.size = 0


def keep_page(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> bool:
    """Keep a page that is not the last; one that was received before is ignored.

    False: all pages together are over the limit, and forgotten. Raises ApiError for a page that makes no sense.
    """
    _check(request, step.limits.workflow_task_completion_pages)
    task = task_id(step.task)
    kept = step.volatile.pages
    if kept is None or kept.task != task:
        kept = step.volatile.pages = CompletionPages(task)
    if request.page_number in kept.pages:
        return True
    size = sum(command.ByteSize() for command in request.commands)
    if kept.size + size > step.limits.workflow_task_completion_buffer_bytes > 0:
        step.volatile.pages = None
        return False
    kept.pages[request.page_number] = list(request.commands)
    kept.size += size
    return True


def all_commands(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> Iterable[Command]:
    """The commands of all pages up to this, the last one. Raises ApiError ABORTED when earlier ones are missing."""
    if not request.page_number:
        return request.commands
    _check(request, step.limits.workflow_task_completion_pages)
    kept, step.volatile.pages = step.volatile.pages, None
    task = step.task
    if kept is None or kept.task != task_id(task):
        raise _lost(f"workflow task completion buffer lost for scheduled event {task.scheduled_event_id} attempt {task.attempt}")
    for page in range(request.page_number):
        if page not in kept.pages:
            raise _lost(f"workflow task completion buffer missing page {page} of {request.page_number}")
    return [*(command for page in range(request.page_number) for command in kept.pages[page]), *request.commands]


def _check(request: RespondWorkflowTaskCompletedRequest, most: int) -> None:
    if request.page_number < 0:
        raise invalid_argument("workflow task completion pagination page number must be non-negative")
    if request.page_number >= most:
        raise invalid_argument(f"workflow task completion pagination supports at most {most} pages")
    if request.intermediate_page and not request.commands:
        raise invalid_argument("intermediate workflow task page must carry at least one command")


def task_id(task: WorkflowTask) -> TaskId:
    """Tells a started workflow task from all others of its run, also from one that took its place in memory."""
    return task.scheduled_event_id, task.attempt, task.started_at


def _lost(message: str) -> ApiError:
    return ApiError(Code.ABORTED, message, WorkflowTaskCompletionBufferLostFailure())
