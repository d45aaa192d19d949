"""What becomes of updates, and of the workflow tasks that are made for them, counted under the official names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage

if TYPE_CHECKING:
    from perdure.features.workflow.step import WorkflowStep

OPERATION = "WorkflowContext"
ASK = "UpdateWorkflowExecution"
COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

WORKFLOW_COMPLETED = "WorkflowCompleted"
WORKFLOW_CONTINUING = "WorkflowContinuing"
WORKFLOW_TASK_FAILED = "WorkflowTaskFailed"
"""Why updates are told that nothing comes of them."""


def count_asked(step: WorkflowStep, stage: int) -> None:
    """A client asks for an update and waits for a stage, the official enum's COMPLETED or ACCEPTED."""
    metrics = step.metrics
    family = metrics.workflow_update_wait_stage_completed if stage == COMPLETED else metrics.workflow_update_wait_stage_accepted
    family.labels(ASK, step.namespace.name).inc()


def count_sent(step: WorkflowStep) -> None:
    """An update goes with a workflow task."""
    step.metrics.workflow_update_sent_to_worker.labels(OPERATION, step.namespace.name).inc()


def count_aborted(step: WorkflowStep, reason: str, updates: int) -> None:
    """So many updates come to nothing. reason: one of the above."""
    if updates:
        step.metrics.workflow_update_aborted.labels(OPERATION, step.namespace.name, reason).inc(updates)


def count_speculative(step: WorkflowStep, reason: str) -> None:
    """A task that was in memory only ends, or becomes a normal one. reason: why it is written after all, "" when it vanishes."""
    metrics, namespace = step.metrics, step.namespace.name
    if reason:
        metrics.speculative_workflow_task_commits.labels(OPERATION, namespace, reason).inc()
    else:
        metrics.speculative_workflow_task_rollbacks.labels(OPERATION, namespace).inc()
