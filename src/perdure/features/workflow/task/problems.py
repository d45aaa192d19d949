"""Workflow tasks that keep failing: the run says so in a search attribute, and a policy may pause or end it.

``failure_series.py`` says which failures are alike. Any good task ends the series.
"""

from __future__ import annotations

from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import WorkflowExecutionFailedEventAttributes

from perdure.core.execution import Touch
from perdure.core.poison_policy import NAMESPACE_KEY, PoisonRule, parse_poison_policy
from perdure.features.workflow import notes
from perdure.features.workflow.failures import cause_name
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.run.closing import SERVER_IDENTITY, close, last_result
from perdure.features.workflow.run.new_run import after_failure, begin_again
from perdure.features.workflow.run.pause import pause
from perdure.features.workflow.state import WorkflowState, WorkflowTask
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.failure_series import told
from perdure.features.workflow.task.reported_problems import report_problems

LONGEST_REASON = 500
"""Characters of a failure's message that a pause repeats: the reason is a search attribute, too."""


def handle_problem(step: WorkflowStep) -> None:
    """Called when a workflow task has failed or timed out, before the next one is scheduled. The run may be paused or closed afterwards."""
    if not step.state.is_open:
        return
    task = step.state.task
    rule = _rule(step)
    is_poisoned = rule.action != "keep-retrying" and task.alike >= rule.after and (rule.count_timeouts or task.last_failure_cause != 0)
    threshold = step.limits.workflow_task_problems_to_mark
    if is_poisoned or task.problems >= threshold > 0:
        keywords = _keywords(task)
        if keywords != step.state.reported_problems:
            step.note(notes.ProblemsReported(keywords))
    if not is_poisoned or step.state.is_paused:
        return
    if rule.action == "pause":
        pause(step, identity=SERVER_IDENTITY, reason=_summary(task)[:LONGEST_REASON], request_id="")
    else:
        _fail_run(step, _failure(task))


def _fail_run(step: WorkflowStep, failure: Failure) -> None:
    """End the run. No retry policy has the same thing done again; a cron schedule goes on, as after any failed run."""
    next_run, retry_state = after_failure(step, failure)
    new_run_id = next_run.run_id if next_run is not None else ""
    close(step, WorkflowExecutionFailedEventAttributes(failure=failure, retry_state=retry_state, new_execution_run_id=new_run_id))
    if next_run is not None:
        begin_again(step, next_run, last_result(step.state), failure)


def _rule(step: WorkflowStep) -> PoisonRule:
    text = step.namespace.data.get(NAMESPACE_KEY, "")
    policy = parse_poison_policy(text) if text else step.namespaces.poison_policy
    return policy.rule(step.state.started.workflow_type.name)


def _keywords(task: WorkflowTask) -> list[str]:
    """What history shows last: workers report a failure once, and the timeouts of the attempts that follow do not hide it."""
    if task.shown_cause is None:
        return ["category=WorkflowTaskTimedOut", "cause=WorkflowTaskTimedOutCauseStartToClose"]
    return ["category=WorkflowTaskFailed", f"cause=WorkflowTaskFailedCause{cause_name(task.shown_cause)}"]


def _summary(task: WorkflowTask) -> str:
    cause = cause_name(task.last_failure_cause)
    what = f"{cause}: {told(task.last_failure)[0]}" if task.last_failure is not None else "it was not answered in time"
    return f"poison policy: the workflow task failed {task.alike} times in a row: {what}"


def _failure(task: WorkflowTask) -> Failure:
    failure = Failure(
        message=_summary(task), source="Server",
        application_failure_info=ApplicationFailureInfo(type="PoisonedWorkflowTask", non_retryable=True),
    )  # fmt: skip
    if task.last_failure is not None:
        failure.cause.CopyFrom(task.last_failure)
    return failure


@applies_note(notes.ProblemsReported)
def _reported(state: WorkflowState, note: notes.ProblemsReported, touch: Touch) -> None:
    report_problems(state, note.keywords)
