"""Child workflows, as their parent sees them.

| child of the parent's state | what happens                                | then                                             |
|-----------------------------|---------------------------------------------|--------------------------------------------------|
| (none)                      | command                                     | INITIATED; the start is on its way               |
| INITIATED                   | the start was accepted                      | STARTED                                          |
| INITIATED                   | the start was refused                       | START_FAILED; gone                               |
| INITIATED                   | the child reports its end                   | STARTED and its end; gone                        |
| STARTED                     | the child reports its end                   | COMPLETED, FAILED, CANCELED …; gone              |
| STARTED                     | the start was accepted, again               | ignored                                          |
| gone                        | anything                                    | ignored                                          |
| INITIATED, STARTED          | the parent closes                           | parent close policy on its way, unless ABANDON   |
| STARTED, handed on by reset | it has ended already                        | COMPLETED, FAILED, CANCELED …; gone              |
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    CommandType,
    EventType,
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
    WorkflowIdReusePolicy,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import (
    ChildWorkflowExecutionCanceledEventAttributes,
    ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes,
    ChildWorkflowExecutionStartedEventAttributes,
    ChildWorkflowExecutionTerminatedEventAttributes,
    ChildWorkflowExecutionTimedOutEventAttributes,
    HistoryEvent,
    StartChildWorkflowExecutionFailedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
)
from temporalio.api.workflow.v1 import PendingChildExecutionInfo

from perdure.core.clock import duration_ns, timestamp_ns, to_duration
from perdure.core.errors import namespace_not_found
from perdure.core.execution import Touch
from perdure.features.namespace.registry import Namespace
from perdure.features.search_attributes.values import (
    check_search_attribute_names,
    check_search_attribute_sizes,
    typed_search_attributes,
)
from perdure.features.workflow import notes
from perdure.features.workflow.commands import (
    CommandRefused,
    Completion,
    refuse_if_too_big,
    refuse_if_too_many,
    refusing,
    require_attributes,
)
from perdure.features.workflow.other_runs.outgoing import Child
from perdure.features.workflow.registry import applies, applies_note, command, numbered
from perdure.features.workflow.run.continue_as_new import kept_memo, kept_search_attributes
from perdure.features.workflow.run.cron import check_cron
from perdure.features.workflow.run.versioning_override import current_form
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task
from perdure.features.workflow.validation import (
    capped_run_timeout,
    capped_task_timeout,
    check_duration,
    check_priority,
    check_retry_policy,
    check_storable,
    check_task_queue,
    fill_retry_policy,
)

E = EventType
Cause = WorkflowTaskFailedCause
Attributes = StartChildWorkflowExecutionCommandAttributes
CAUSE = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
NAME = "StartChildWorkflowExecutionCommand"


def target_namespace(step: WorkflowStep, name: str) -> Namespace:
    """The namespace that a command addresses; its own when it names none. Raises ApiError NOT_FOUND."""
    if not name:
        return step.namespace
    namespace = step.namespaces.by_name(name)
    if namespace is None:
        raise namespace_not_found(name)
    return namespace


def refuse_other_namespace(step: WorkflowStep, target: Namespace, cause: WorkflowTaskFailedCause.ValueType) -> None:
    """A command stays within its namespace, unless the operator has allowed more."""
    if target.id != step.key.namespace_id and not step.limits.cross_namespace_commands_enabled:
        raise CommandRefused(cause, "cross namespace commands are not allowed")


# -- the command -----------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
def start_child(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = Attributes()
    attributes.CopyFrom(command.start_child_workflow_execution_command_attributes)
    namespace = target_namespace(step, attributes.namespace)
    attributes.namespace = namespace.name
    with refusing(Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES):
        check_search_attribute_names(attributes.search_attributes, namespace)
    require_attributes(command, "start_child_workflow_execution_command_attributes", CAUSE)
    refuse_other_namespace(step, namespace, CAUSE)
    _check(step, attributes, namespace)
    _check_sizes(step, attributes)
    refuse_if_too_many(
        len(step.state.children), step.limits.pending_child_executions,
        Cause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED, "pending child workflow executions",
    )  # fmt: skip
    step.event(_initiated(attributes, namespace, completion.completed_event_id), command=command)
    completion.started_children.add(attributes.workflow_id)


def _check(step: WorkflowStep, attributes: Attributes, namespace: Namespace) -> None:
    """Refuse what no child can begin with; fill in what is inherited."""
    _check_names(step, attributes)
    limit = step.limits.max_id_length
    shown = f". WorkflowId={attributes.workflow_id} WorkflowType={attributes.workflow_type.name} Namespace={attributes.namespace}"
    with refusing(CAUSE, suffix=shown):
        check_duration(attributes.workflow_execution_timeout, f"Invalid WorkflowExecutionTimeout on {NAME}")
        check_duration(attributes.workflow_run_timeout, f"Invalid WorkflowRunTimeout on {NAME}")
        check_duration(attributes.workflow_task_timeout, f"Invalid WorkflowTaskTimeout on {NAME}")
    if attributes.HasField("retry_policy"):
        fill_retry_policy(attributes.retry_policy, step.limits.default_workflow_retry)
        with refusing(CAUSE, f"invalid WorkflowRetryPolicy on {NAME}: ", shown):
            check_retry_policy(attributes.retry_policy)
    with refusing(CAUSE, f"invalid CronSchedule on {NAME}: ", shown):
        check_cron(attributes.cron_schedule, step.now)
    if attributes.HasField("search_attributes"):
        prefix = "invalid SearchAttributes on StartChildWorkflowCommand: "
        with refusing(Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES, prefix, shown):
            attributes.search_attributes.CopyFrom(typed_search_attributes(attributes.search_attributes, namespace, step.limits))
    with refusing(CAUSE):
        check_priority(attributes.priority, step.limits)
    attributes.task_queue.name = attributes.task_queue.name or step.state.task_queue
    attributes.task_queue.ClearField("kind")
    shown += f' TaskQueue=name:"{attributes.task_queue.name}" kind:TASK_QUEUE_KIND_NORMAL'
    with refusing(CAUSE, f"invalid TaskQueue on {NAME}: ", shown):
        check_task_queue(attributes.task_queue, limit, step.state.task_queue)
    run_timeout = capped_run_timeout(duration_ns(attributes.workflow_run_timeout), duration_ns(attributes.workflow_execution_timeout))
    task_timeout = capped_task_timeout(duration_ns(attributes.workflow_task_timeout), run_timeout, step.limits)
    attributes.workflow_run_timeout.CopyFrom(to_duration(run_timeout))
    attributes.workflow_task_timeout.CopyFrom(to_duration(task_timeout))


def _check_names(step: WorkflowStep, attributes: Attributes) -> None:
    limit = step.limits.max_id_length
    workflow_id, workflow_type, namespace = attributes.workflow_id, attributes.workflow_type.name, attributes.namespace
    with refusing(CAUSE):
        check_storable(workflow_id, f"WorkflowId on {NAME}")
        check_storable(workflow_type, f"WorkflowType on {NAME}")
    if not workflow_id:
        message = f"Required field WorkflowId is not set on {NAME}. WorkflowType={workflow_type} Namespace={namespace}"
        raise CommandRefused(CAUSE, message)
    if not workflow_type:
        raise CommandRefused(CAUSE, f"Required field WorkflowType is not set on {NAME}. WorkflowId={workflow_id} Namespace={namespace}")
    if (length := len(workflow_id.encode())) > limit:
        message = (
            f"WorkflowId on {NAME} exceeds length limit. WorkflowId={workflow_id} Length={length} Limit={limit} "
            f"WorkflowType={workflow_type} Namespace={namespace}"
        )
        raise CommandRefused(CAUSE, message)
    if (length := len(workflow_type.encode())) > limit:
        message = (
            f"WorkflowType on {NAME} exceeds length limit. WorkflowId={workflow_id} WorkflowType={workflow_type} "
            f"Length={length} Limit={limit} Namespace={namespace}"
        )
        raise CommandRefused(CAUSE, message)


def _check_sizes(step: WorkflowStep, attributes: Attributes) -> None:
    limits = step.limits
    command_name = "StartChildWorkflowExecutionCommandAttributes"
    refuse_if_too_big(attributes.input.ByteSize(), limits.blob_size_error_bytes, CAUSE, f"{command_name}. Input exceeds size limit.")
    refuse_if_too_big(attributes.memo.ByteSize(), limits.memo_size_error_bytes, CAUSE, f"{command_name}.Memo exceeds size limit.")
    with refusing(CAUSE, terminate=True):
        check_search_attribute_sizes(attributes.search_attributes, limits)


def _initiated(
    attributes: Attributes, namespace: Namespace, completed_event_id: int
) -> StartChildWorkflowExecutionInitiatedEventAttributes:
    reuse = attributes.workflow_id_reuse_policy or WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    event = StartChildWorkflowExecutionInitiatedEventAttributes(
        workflow_task_completed_event_id=completed_event_id, namespace=namespace.name, namespace_id=namespace.id,
        workflow_id=attributes.workflow_id, workflow_type=attributes.workflow_type, task_queue=attributes.task_queue,
        workflow_run_timeout=attributes.workflow_run_timeout, workflow_task_timeout=attributes.workflow_task_timeout,
        control=attributes.control, cron_schedule=attributes.cron_schedule, workflow_id_reuse_policy=reuse,
        parent_close_policy=attributes.parent_close_policy or ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE,
        memo=kept_memo(attributes.memo), search_attributes=kept_search_attributes(attributes.search_attributes),
    )  # fmt: skip
    event.inherit_build_id = attributes.inherit_build_id  # pyright: ignore[reportDeprecated]
    for name in ("header", "input", "workflow_execution_timeout", "retry_policy", "priority"):
        if attributes.HasField(name):
            getattr(event, name).CopyFrom(getattr(attributes, name))
    override = current_form(attributes.versioning_override)
    if override.WhichOneof("override") is not None:
        event.versioning_override.CopyFrom(override)
    return event


@applies(E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED)
def _child_initiated(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    metadata = event.user_metadata if event.HasField("user_metadata") else None
    attributes = event.start_child_workflow_execution_initiated_event_attributes
    child = state.children[event.event_id] = Child(event.event_id, timestamp_ns(event.event_time), attributes, metadata)
    touch(child)


# -- the outcome of the start -------------------------------------------------------------------------------------
def child_started(step: WorkflowStep, initiated_event_id: int, run_id: str) -> None:
    """The child has begun. Ignored when that is known, or when the parent has closed."""
    child = step.state.children.get(initiated_event_id)
    if child is None or child.first_run_id or not step.state.is_open:
        return
    _record_started(step, child, run_id)
    schedule_task(step)


def _record_started(step: WorkflowStep, child: Child, run_id: str) -> None:
    initiated = child.attributes
    step.event(
        ChildWorkflowExecutionStartedEventAttributes(
            namespace=initiated.namespace, namespace_id=initiated.namespace_id, initiated_event_id=child.initiated_event_id,
            workflow_execution=WorkflowExecution(workflow_id=initiated.workflow_id, run_id=run_id), workflow_type=initiated.workflow_type,
            header=initiated.header if initiated.HasField("header") else None,
        )
    )  # fmt: skip


@applies(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
def _child_started(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.child_workflow_execution_started_event_attributes
    child = state.children[attributes.initiated_event_id]
    child.first_run_id = attributes.workflow_execution.run_id
    kept = StartChildWorkflowExecutionInitiatedEventAttributes()
    kept.CopyFrom(child.attributes)
    for large in ("input", "header", "memo", "search_attributes"):
        kept.ClearField(large)
    child.attributes = kept
    child.user_metadata = None
    touch(child)


@numbered(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
def _child_started_numbered(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    child = state.children.get(event.child_workflow_execution_started_event_attributes.initiated_event_id)
    if child is not None:
        child.started_event_id = event.event_id


def child_start_failed(step: WorkflowStep, initiated_event_id: int, cause: StartChildWorkflowExecutionFailedCause.ValueType) -> None:
    """The child could not begin. Ignored when its start is known, or when the parent has closed."""
    child = step.state.children.get(initiated_event_id)
    if child is None or child.first_run_id or not step.state.is_open:
        return
    initiated = child.attributes
    step.event(
        StartChildWorkflowExecutionFailedEventAttributes(
            namespace=initiated.namespace, namespace_id=initiated.namespace_id, workflow_id=initiated.workflow_id,
            workflow_type=initiated.workflow_type, cause=cause, control=initiated.control, initiated_event_id=initiated_event_id,
        )
    )  # fmt: skip
    schedule_task(step)


@applies(E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED)
def _child_start_failed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.children.pop(event.start_child_workflow_execution_failed_event_attributes.initiated_event_id, None)


# -- the end of the child -------------------------------------------------------------------------------------------
_ENDS: dict[int, tuple[str, type[Message], tuple[str, ...]]] = {
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: (
        "workflow_execution_completed_event_attributes", ChildWorkflowExecutionCompletedEventAttributes, ("result",)),
    E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: (
        "workflow_execution_failed_event_attributes", ChildWorkflowExecutionFailedEventAttributes, ("failure", "retry_state")),
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: (
        "workflow_execution_canceled_event_attributes", ChildWorkflowExecutionCanceledEventAttributes, ("details",)),
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: (
        "workflow_execution_terminated_event_attributes", ChildWorkflowExecutionTerminatedEventAttributes, ()),
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: (
        "workflow_execution_timed_out_event_attributes", ChildWorkflowExecutionTimedOutEventAttributes, ("retry_state",)),
}  # fmt: skip
"""Close event of the child → its attributes, the class of what the parent records, and the fields that are taken over."""


def child_closed(step: WorkflowStep, initiated_event_id: int, first_run_id: str, child_run_id: str, close_event: HistoryEvent) -> None:
    """The child has ended. Ignored when it is not a pending child (any more), or when the parent has closed.

    first_run_id: of the child's chain; child_run_id: of the run that ended.
    """
    child = step.state.children.get(initiated_event_id)
    if child is None or not step.state.is_open or (child.first_run_id and child.first_run_id != first_run_id):
        return
    if not child.first_run_id:
        # The answer to the start got lost: the end of the child tells us that it did begin.
        _record_started(step, child, first_run_id)
    initiated = child.attributes
    field, attributes_class, names = _ENDS[close_event.event_type]
    source: Any = getattr(close_event, field)
    attributes: Any = attributes_class()
    attributes.namespace = initiated.namespace
    attributes.namespace_id = initiated.namespace_id
    attributes.workflow_execution.CopyFrom(WorkflowExecution(workflow_id=initiated.workflow_id, run_id=child_run_id))
    attributes.workflow_type.CopyFrom(initiated.workflow_type)
    attributes.initiated_event_id = initiated_event_id
    attributes.started_event_id = child.started_event_id
    for name in names:
        if name == "retry_state":
            attributes.retry_state = source.retry_state
        elif source.HasField(name):
            getattr(attributes, name).CopyFrom(getattr(source, name))
    step.event(attributes)
    schedule_task(step)


@applies(
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
)
def _child_ended(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    which = event.WhichOneof("attributes")
    assert which is not None
    state.children.pop(getattr(event, which).initiated_event_id, None)


@applies_note(notes.ChildFoundRunning)
def _found_running(state: WorkflowState, note: notes.ChildFoundRunning, touch: Touch) -> None:
    state.children[note.initiated_event_id].is_asked = True


# -- after the parent's end -------------------------------------------------------------------------------------------
@applies_note(notes.ChildClosed)
def _parent_close_policy_applied(state: WorkflowState, note: notes.ChildClosed, touch: Touch) -> None:
    state.children[note.initiated_event_id].is_closed = True


@applies_note(notes.ParentInformed)
def _parent_informed(state: WorkflowState, note: notes.ParentInformed, touch: Touch) -> None:
    state.unreported = None


def pending_child_info(child: Child) -> PendingChildExecutionInfo:
    """The child as describe shows it."""
    return PendingChildExecutionInfo(
        workflow_id=child.attributes.workflow_id, run_id=child.first_run_id, workflow_type_name=child.attributes.workflow_type.name,
        initiated_id=child.initiated_event_id, parent_close_policy=child.attributes.parent_close_policy,
    )  # fmt: skip
