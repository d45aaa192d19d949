"""Failed workflow tasks, counted under the official name once it is durable."""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from perdure.features.workflow.failures import cause_name
from perdure.features.workflow.step import WorkflowStep

COMPLETED = "RespondWorkflowTaskCompleted"
FAILED = "RespondWorkflowTaskFailed"

UNKNOWN = "Unknown"


def count_failure(step: WorkflowStep, operation: str, cause: int) -> None:
    """A workflow task failed by what its worker said.

    operation: one of the names above. cause: ``temporal.api.enums.v1.WorkflowTaskFailedCause``.
    """
    # A worker may say any number; the metrics do not grow with what it says.
    name = cause_name(cause) if cause in WorkflowTaskFailedCause.values() else UNKNOWN
    counter = step.metrics.failed_workflow_tasks.labels(operation, step.namespace.name, name)
    step.after_commit(counter.inc)
