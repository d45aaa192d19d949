"""Continue as new: the workflow ends this run itself and goes on in the next."""

from __future__ import annotations

from temporalio.api.command.v1 import Command, ContinueAsNewWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Memo, SearchAttributes, WorkflowType
from temporalio.api.enums.v1 import CommandType, ContinueAsNewInitiator, WorkflowTaskFailedCause
from temporalio.api.history.v1 import WorkflowExecutionContinuedAsNewEventAttributes

from perdure.core.clock import duration_ns, to_duration
from perdure.features.search_attributes.values import (
    check_search_attribute_names,
    check_search_attribute_sizes,
    typed_search_attributes,
)
from perdure.features.workflow.commands import CommandRefused, Completion, refuse_if_too_big, refusing, require_attributes
from perdure.features.workflow.registry import command
from perdure.features.workflow.run.new_run import begin_next, next_started
from perdure.features.workflow.run.pace import held_back
from perdure.features.workflow.run.properties import merged
from perdure.features.workflow.run.versioning import hand_on
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import (
    capped_run_timeout,
    capped_task_timeout,
    check_duration,
    check_retry_policy,
    check_storable,
    check_task_queue,
    fill_retry_policy,
)

Cause = WorkflowTaskFailedCause
Attributes = ContinueAsNewWorkflowExecutionCommandAttributes
CAUSE = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
NAME = "ContinueAsNewWorkflowExecutionCommand"


@command(CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
def continue_as_new(step: WorkflowStep, command: Command, completion: Completion) -> None:
    given = command.continue_as_new_workflow_execution_command_attributes
    attributes = Attributes()
    attributes.CopyFrom(given)
    with refusing(Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES):
        check_search_attribute_names(attributes.search_attributes, step.namespace)
    require_attributes(command, "continue_as_new_workflow_execution_command_attributes", CAUSE)
    _check(step, attributes)
    _check_sizes(step, attributes)
    run_id = step.ids.run_id(step.now)
    step.event(_close_attributes(attributes, run_id, completion.completed_event_id), command=command)
    _begin(step, attributes, run_id)


def _check(step: WorkflowStep, attributes: Attributes) -> None:
    """Refuse what no run can begin with; fill in what is inherited."""
    started = step.state.started
    limit = step.limits.max_id_length
    if not attributes.workflow_type.name:
        attributes.workflow_type.CopyFrom(started.workflow_type)
    name = attributes.workflow_type.name
    with refusing(CAUSE):
        check_storable(name, f"WorkflowType on {NAME}")
    if (length := len(name.encode())) > limit:
        message = f"WorkflowType on {NAME} exceeds length limit. WorkflowType={name} Length={length} Limit={limit}"
        raise CommandRefused(CAUSE, message)
    if not attributes.task_queue.name:
        attributes.task_queue.name = started.task_queue.name
    attributes.task_queue.ClearField("kind")
    shown = f'. WorkflowType={name} TaskQueue=name:"{attributes.task_queue.name}" kind:TASK_QUEUE_KIND_NORMAL'
    with refusing(CAUSE, f"error validating {NAME} TaskQueue: ", shown):
        check_task_queue(attributes.task_queue, limit, started.task_queue.name)
    with refusing(CAUSE, suffix=shown):
        check_duration(attributes.workflow_run_timeout, f"Invalid WorkflowRunTimeout on {NAME}")
        check_duration(attributes.workflow_task_timeout, f"Invalid WorkflowTaskTimeout on {NAME}")
        check_duration(attributes.backoff_start_interval, f"Invalid BackoffStartInterval on {NAME}")
    _fill_timeouts(step, attributes)
    if attributes.HasField("retry_policy"):
        fill_retry_policy(attributes.retry_policy, step.limits.default_workflow_retry)
        with refusing(CAUSE, f"invalid WorkflowRetryPolicy on {NAME}: ", shown):
            check_retry_policy(attributes.retry_policy)
    if attributes.HasField("search_attributes"):
        with refusing(Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES, f"invalid SearchAttributes on {NAME}: ", shown):
            attributes.search_attributes.CopyFrom(typed_search_attributes(attributes.search_attributes, step.namespace, step.limits))


def _fill_timeouts(step: WorkflowStep, attributes: Attributes) -> None:
    started = step.state.started
    run_timeout = duration_ns(attributes.workflow_run_timeout) or duration_ns(started.workflow_run_timeout)
    run_timeout = capped_run_timeout(run_timeout, duration_ns(started.workflow_execution_timeout))
    task_timeout = duration_ns(attributes.workflow_task_timeout) or duration_ns(started.workflow_task_timeout)
    task_timeout = capped_task_timeout(task_timeout, run_timeout, step.limits)
    attributes.workflow_run_timeout.CopyFrom(to_duration(run_timeout))
    attributes.workflow_task_timeout.CopyFrom(to_duration(task_timeout))


def _check_sizes(step: WorkflowStep, attributes: Attributes) -> None:
    limits = step.limits
    command_name = "ContinueAsNewWorkflowExecutionCommandAttributes"
    refuse_if_too_big(attributes.input.ByteSize(), limits.blob_size_error_bytes, CAUSE, f"{command_name}. Input exceeds size limit.")
    refuse_if_too_big(attributes.memo.ByteSize(), limits.memo_size_error_bytes, CAUSE, f"{command_name}. Memo exceeds size limit.")
    with refusing(CAUSE, terminate=True):
        check_search_attribute_sizes(attributes.search_attributes, limits)


def _close_attributes(attributes: Attributes, run_id: str, completed_event_id: int) -> WorkflowExecutionContinuedAsNewEventAttributes:
    event = WorkflowExecutionContinuedAsNewEventAttributes(
        new_execution_run_id=run_id, workflow_task_completed_event_id=completed_event_id, workflow_type=attributes.workflow_type,
        task_queue=attributes.task_queue, workflow_run_timeout=attributes.workflow_run_timeout,
        workflow_task_timeout=attributes.workflow_task_timeout, initiator=attributes.initiator, memo=kept_memo(attributes.memo),
        search_attributes=kept_search_attributes(attributes.search_attributes),
    )  # fmt: skip
    event.inherit_build_id = attributes.inherit_build_id  # pyright: ignore[reportDeprecated]
    for name in ("header", "input", "backoff_start_interval", "failure", "last_completion_result"):
        if attributes.HasField(name):
            getattr(event, name).CopyFrom(getattr(attributes, name))
    return event


def _begin(step: WorkflowStep, attributes: Attributes, run_id: str) -> None:
    state = step.state
    new = next_started(step)
    new.workflow_type.CopyFrom(WorkflowType(name=attributes.workflow_type.name))
    new.task_queue.CopyFrom(attributes.task_queue)
    new.workflow_run_timeout.CopyFrom(attributes.workflow_run_timeout)
    new.workflow_task_timeout.CopyFrom(attributes.workflow_task_timeout)
    for name in ("input", "header", "retry_policy", "last_completion_result"):
        if attributes.HasField(name):
            getattr(new, name).CopyFrom(getattr(attributes, name))
    if attributes.HasField("failure"):
        new.continued_failure.CopyFrom(attributes.failure)
    new.cron_schedule = attributes.cron_schedule
    new.initiator = attributes.initiator or ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    if new.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY:
        new.attempt = state.started.attempt + 1
    memo, search_attributes = kept_memo(attributes.memo), kept_search_attributes(attributes.search_attributes)
    if memo is not None:
        new.memo.CopyFrom(memo)
    if search_attributes is not None:
        new.search_attributes.CopyFrom(search_attributes)
    if state.given_priority is not None:
        new.priority.CopyFrom(state.given_priority)
    same_queue = attributes.task_queue.name == state.task_queue
    hand_on(state, new, same_queue=same_queue, version=not attributes.initial_versioning_behavior)
    new.completion_callbacks.extend(callback.callback for callback in state.callbacks)
    backoff = held_back(step, attributes.backoff_start_interval if attributes.HasField("backoff_start_interval") else None)
    if backoff is not None:
        new.first_workflow_task_backoff.CopyFrom(backoff)
    begin_next(step, run_id, new)


def kept_memo(memo: Memo) -> Memo | None:
    """Without its nulls; None when nothing is left."""
    fields = merged({}, memo.fields)
    return Memo(fields=fields) if fields else None


def kept_search_attributes(attributes: SearchAttributes) -> SearchAttributes | None:
    """Without its nulls; None when nothing is left."""
    fields = merged({}, attributes.indexed_fields)
    return SearchAttributes(indexed_fields=fields) if fields else None
