"""Completions of a workflow task that come in pages, because their commands do not fit one message.

The pages before the last are kept in memory only. If they are lost, the last one is answered so that the worker sends all again.
"""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.command.v1 import Command
from temporalio.api.errordetails.v1 import WorkflowTaskCompletionBufferLostFailure
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from perdure.core.errors import ApiError, Code, invalid_argument
from perdure.core.limits import Limits
from perdure.features.workflow.state import WorkflowTask
from perdure.features.workflow.step import WorkflowStep

TaskId = tuple[int, int, int]


class CompletionBuffer:
    """What the pages that wait for their last one take together, and those of each namespace: bytes."""

    def __init__(self) -> None:
        self._used = 0
        self._by_namespace: dict[str, int] = {}

    def take(self, namespace_id: str, size: int, limits: Limits) -> bool:
        """False when there is no room for so much more; then nothing is taken."""
        most = limits.workflow_task_completion_buffer_total_bytes
        used = self._by_namespace.get(namespace_id, 0)
        if most and (self._used + size > most or used + size > most * limits.workflow_task_completion_buffer_namespace_ratio):
            return False
        self._used += size
        self._by_namespace[namespace_id] = used + size
        return True

    def give_back(self, namespace_id: str, size: int) -> None:
        self._used -= size
        self._by_namespace[namespace_id] -= size
        if not self._by_namespace[namespace_id]:
            del self._by_namespace[namespace_id]


class CompletionPages:
    """The pages received for one workflow task. size: of their commands, bytes."""

    __slots__ = ("_buffer", "_namespace_id", "pages", "size", "task")

    def __init__(self, task: TaskId, buffer: CompletionBuffer, namespace_id: str) -> None:
        self.task = task
        self.pages: dict[int, list[Command]] = {}
        self.size = 0
        self._buffer = buffer
        self._namespace_id = namespace_id

    def add(self, number: int, commands: Iterable[Command], size: int, limits: Limits) -> bool:
        """False when all that are kept on this server leave no room for it."""
        if not self._buffer.take(self._namespace_id, size, limits):
            return False
        self.pages[number] = list(commands)
        self.size += size
        return True

    def forget(self) -> None:
        """They are of no use any more."""
        if self.size:
            self._buffer.give_back(self._namespace_id, self.size)
        self.pages, self.size = {}, 0

    def __del__(self) -> None:
        self.forget()  # when the run leaves memory, which tells nobody


def keep_page(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> bool:
    """Keep a page that is not the last; one that was received before is ignored.

    False: all pages together are over the limit, and forgotten. Raises ApiError for a page that makes no sense, or for which there is no
    room on this server.
    """
    _check(request, step.limits.workflow_task_completion_pages)
    task = task_id(step.task)
    kept = step.volatile.pages
    if kept is None or kept.task != task:
        _forget(step)
        kept = step.volatile.pages = CompletionPages(task, step.completion_buffer, step.key.namespace_id)
    if request.page_number in kept.pages:
        return True
    size = sum(command.ByteSize() for command in request.commands)
    if kept.size + size > step.limits.workflow_task_completion_buffer_bytes > 0:
        _forget(step)
        return False
    if not kept.add(request.page_number, request.commands, size, step.limits):
        # The worker will send all again: what there is would only be in the way.
        _forget(step)
        raise _lost(f"workflow task completion buffer memory limit reached while buffering page {request.page_number}")
    return True


def all_commands(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> Iterable[Command]:
    """The commands of all pages up to this, the last one. Raises ApiError ABORTED when earlier ones are missing."""
    if not request.page_number:
        return request.commands
    _check(request, step.limits.workflow_task_completion_pages)
    kept, task = step.volatile.pages, step.task
    pages = kept.pages if kept is not None and kept.task == task_id(task) else None
    _forget(step)
    if pages is None:
        raise _lost(f"workflow task completion buffer lost for scheduled event {task.scheduled_event_id} attempt {task.attempt}")
    for page in range(request.page_number):
        if page not in pages:
            raise _lost(f"workflow task completion buffer missing page {page} of {request.page_number}")
    return [*(command for page in range(request.page_number) for command in pages[page]), *request.commands]


def forget_old_pages(step: WorkflowStep) -> None:
    """Pages are of no use once their task has ended."""
    kept = step.volatile.pages
    if kept is not None and not (step.state.is_open and kept.task == task_id(step.task)):
        _forget(step)


def _forget(step: WorkflowStep) -> None:
    kept, step.volatile.pages = step.volatile.pages, None
    if kept is not None:
        kept.forget()


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
