"""The run that follows a run: by a retry policy, a cron schedule, or because the workflow continued as new.

It begins in the commit that closes the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import ContinueAsNewInitiator, RetryState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes

from perdure.core.clock import duration_ns, to_duration, to_timestamp
from perdure.features.workflow.activity.retry import backoff, is_retryable, requested_delay
from perdure.features.workflow.run.cron import cron_backoff
from perdure.features.workflow.run.pace import held_back
from perdure.features.workflow.run.start import Start, begin
from perdure.features.workflow.run.versioning import hand_on
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

Initiator = ContinueAsNewInitiator


@dataclass(frozen=True, slots=True)
class NextRun:
    """A run to come. backoff: nanoseconds until its first workflow task."""

    run_id: str
    initiator: ContinueAsNewInitiator.ValueType
    backoff: int


def after_failure(step: WorkflowStep, failure: Failure) -> tuple[NextRun | None, RetryState.ValueType]:
    """The run that follows a failed or timed out one, and what its close event says about retries."""
    interval, retry_state = workflow_retry(step.state, failure, step.now)
    if interval is not None:
        return NextRun(step.ids.run_id(step.now), Initiator.CONTINUE_AS_NEW_INITIATOR_RETRY, interval), retry_state
    return after_success(step), retry_state


def after_success(step: WorkflowStep) -> NextRun | None:
    """The next run of a cron schedule, None without one."""
    interval = cron_backoff(step.state.started.cron_schedule, _due_at(step.state), step.now)
    if interval is None:
        return None
    return NextRun(step.ids.run_id(step.now), Initiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE, interval)


def _due_at(state: WorkflowState) -> int:
    """When the run was to begin by its schedule. A reset, which may come at any time, does not move the schedule."""
    origin = state.reset_origin
    return state.execution_at if origin is None else origin.started_at + duration_ns(state.started.first_workflow_task_backoff)


def workflow_retry(state: WorkflowState, failure: Failure, now: int) -> tuple[int | None, RetryState.ValueType]:
    """Nanoseconds until the next attempt of a workflow, None for no more attempts, and why."""
    policy = state.retry_policy
    if policy is None:
        return None, RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if not is_retryable(failure, list(policy.non_retryable_error_types)):
        return None, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    attempt = max(1, state.started.attempt)
    if attempt >= policy.maximum_attempts > 0:
        return None, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    interval = requested_delay(failure)
    if interval is None:
        interval = backoff(policy, attempt)
    maximum = duration_ns(policy.maximum_interval)
    if maximum and not 0 < interval <= maximum:
        interval = maximum
    if interval <= 0 or (state.execution_deadline and now + interval > state.execution_deadline):
        return None, RetryState.RETRY_STATE_TIMEOUT
    return interval, RetryState.RETRY_STATE_IN_PROGRESS


def next_started(step: WorkflowStep) -> WorkflowExecutionStartedEventAttributes:
    """What every following run takes over from the one before."""
    state = step.state
    old = state.started
    new = WorkflowExecutionStartedEventAttributes(
        continued_execution_run_id=state.run_id, first_execution_run_id=old.first_execution_run_id, attempt=1
    )
    if old.HasField("workflow_execution_timeout"):
        new.workflow_execution_timeout.CopyFrom(old.workflow_execution_timeout)
    if state.execution_deadline:
        new.workflow_execution_expiration_time.CopyFrom(to_timestamp(state.execution_deadline))
    if state.reset_points:
        new.prev_auto_reset_points.points.extend(state.reset_points)
    if old.HasField("parent_workflow_execution"):
        new.parent_workflow_namespace = old.parent_workflow_namespace
        new.parent_workflow_namespace_id = old.parent_workflow_namespace_id
        new.parent_workflow_execution.CopyFrom(old.parent_workflow_execution)
        new.parent_initiated_event_id = old.parent_initiated_event_id
        new.parent_initiated_event_version = old.parent_initiated_event_version
        new.root_workflow_execution.CopyFrom(old.root_workflow_execution)
    return new


def begin_again(step: WorkflowStep, next_run: NextRun, result: Payloads | None, failure: Failure | None) -> None:
    """Begin the next run of a retry policy or a cron schedule: with what this one began with. The run has been closed."""
    state = step.state
    old = state.started
    new = next_started(step)
    new.initiator = next_run.initiator
    for name in ("workflow_type", "task_queue", "input", "header", "workflow_run_timeout", "workflow_task_timeout", "retry_policy", "memo",
                 "search_attributes", "priority"):  # fmt: skip
        if old.HasField(name):
            getattr(new, name).CopyFrom(getattr(old, name))
    new.cron_schedule = old.cron_schedule
    is_retry = next_run.initiator == Initiator.CONTINUE_AS_NEW_INITIATOR_RETRY
    hand_on(state, new, same_queue=True, version=is_retry and old.HasField("inherited_pinned_version"))
    if is_retry:
        new.attempt = old.attempt + 1
        new.completion_callbacks.extend(callback.callback for callback in state.callbacks)
    if failure is not None:
        new.continued_failure.CopyFrom(failure)
    if result is not None:
        new.last_completion_result.CopyFrom(result)
    wait = held_back(step, to_duration(next_run.backoff))
    if wait is not None:
        new.first_workflow_task_backoff.CopyFrom(wait)
    begin_next(step, next_run.run_id, new)


def begin_next(step: WorkflowStep, run_id: str, attributes: WorkflowExecutionStartedEventAttributes) -> None:
    """Begin the following run, in the same commit."""
    new_step = step.begin_run(run_id)
    assert isinstance(new_step, WorkflowStep)
    begin(new_step, Start(attributes, step.ids.uuid(), step.namespace.retention, list(step.state.start_links)))
