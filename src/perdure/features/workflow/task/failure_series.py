"""Counts the failures of workflow tasks that follow each other without a good task between them. ``problems.py`` acts on it.

Failures are alike when they have the same cause, message and error type; a task that is not answered in time after a failure counts as the
same failure again, because SDKs report a failure once and stay silent from then on.
"""

from __future__ import annotations

from temporalio.api.failure.v1 import Failure

from perdure.features.workflow.state import WorkflowTask


def count_failure(task: WorkflowTask, cause: int, failure: Failure | None, *, in_history: bool) -> None:
    """The task failed. cause: ``temporal.api.enums.v1.WorkflowTaskFailedCause``. in_history: an event says so."""
    is_alike = (cause, told(failure)) == (task.last_failure_cause, told(task.last_failure))
    task.alike = task.alike + 1 if is_alike else 1
    task.last_failure_cause, task.last_failure = cause, failure
    if in_history:
        task.shown_cause = cause


def count_timeout(task: WorkflowTask, *, in_history: bool) -> None:
    """The task was not answered in time. in_history: an event says so."""
    task.alike += 1
    if in_history:
        task.shown_cause = None


def end_series(task: WorkflowTask) -> None:
    """The task was completed."""
    task.last_failure, task.last_failure_cause, task.shown_cause = None, 0, None
    task.problems = task.alike = 0


def told(failure: Failure | None) -> tuple[str, str]:
    """What a failure says of itself: message and error type."""
    return (failure.message, failure.application_failure_info.type) if failure is not None else ("", "")
