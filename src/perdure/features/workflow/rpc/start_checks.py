"""What a start must say, and what is filled in where it says nothing: the official checks, in the official order and words.

The order matters to nobody but a client that makes two mistakes at once; it is kept because it costs nothing.
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import NamespaceState, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.workflowservice.v1 import SignalWithStartWorkflowExecutionRequest, StartWorkflowExecutionRequest

from perdure.core.clock import duration_ns, to_duration
from perdure.core.errors import invalid_argument, namespace_invalid_state
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace
from perdure.features.search_attributes.values import validate_search_attributes
from perdure.features.workflow.run.callbacks import check_callbacks
from perdure.features.workflow.run.cron import check_cron
from perdure.features.workflow.run.links import check_links, without_callback_links
from perdure.features.workflow.run.properties import is_null
from perdure.features.workflow.run.versioning_override import check_override, current_form
from perdure.features.workflow.validation import (
    capped_run_timeout,
    capped_task_timeout,
    check_duration,
    check_priority,
    check_retry_policy,
    check_task_queue,
    check_time_skipping,
    fill_retry_policy,
)

Reuse = WorkflowIdReusePolicy
Conflict = WorkflowIdConflictPolicy
StartRequest = StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest


def check_start(request: StartWorkflowExecutionRequest, namespace: Namespace, limits: Limits, now: int, ids: IdSource) -> None:
    """Refuse a start that makes no sense, and fill in the defaults of one that does.

    Raises ApiError, nearly always INVALID_ARGUMENT.
    """
    check_state(namespace)
    _check_workflow_id(request.workflow_id, limits)
    _check_retry_policy(request, limits)
    _check_delay(request, now)
    if not request.workflow_type.name:
        raise invalid_argument("WorkflowType is not set on request.")
    if _is_too_long(request.workflow_type.name, limits):
        raise invalid_argument("WorkflowType length exceeds limit.")
    check_task_queue(request.task_queue if request.HasField("task_queue") else None, limits.max_id_length)
    _check_timeouts(request)
    request.request_id = request.request_id or ids.uuid()
    if _is_too_long(request.request_id, limits):
        raise invalid_argument("RequestId length exceeds limit.")
    _check_policies(request)
    options = request.on_conflict_options
    if options.attach_completion_callbacks and not options.attach_request_id:
        raise invalid_argument("attaching request ID is required for attaching completion callbacks")
    _check_search_attributes(request, namespace, limits)
    check_priority(request.priority, limits)
    check_callbacks(request.completion_callbacks, limits)
    links = without_callback_links(request.links, request.completion_callbacks)
    if len(links) < len(request.links):
        del request.links[:]
        request.links.extend(links)
    check_links(request.links, request.completion_callbacks, limits)
    check_time_skipping(request)
    _finish(request, limits)


def check_signal_with_start(
    request: SignalWithStartWorkflowExecutionRequest, namespace: Namespace, limits: Limits, now: int, ids: IdSource
) -> None:
    """As :func:`check_start`, for a signal with start; its words are not the same."""
    check_state(namespace)
    _check_workflow_id(request.workflow_id, limits)
    if not request.signal_name:
        raise invalid_argument("signal not set")
    _check_length("signal name", request.signal_name, limits)
    if not request.workflow_type.name:
        raise invalid_argument("workflow type not set")
    _check_length("workflow type name", request.workflow_type.name, limits)
    check_task_queue(request.task_queue if request.HasField("task_queue") else None, limits.max_id_length)
    request.request_id = request.request_id or ids.uuid()
    _check_length("Request ID", request.request_id, limits)
    _check_timeouts(request)
    _check_retry_policy(request, limits)
    _check_delay(request, now)
    _check_policies(request)
    if request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL:
        raise invalid_argument("Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation.")
    _check_search_attributes(request, namespace, limits)
    check_priority(request.priority, limits)
    check_links(request.links, (), limits)
    check_time_skipping(request)
    _finish(request, limits)
    if request.signal_input.ByteSize() > limits.blob_size_error_bytes:
        raise invalid_argument("Blob data size exceeds limit.")


def check_state(namespace: Namespace) -> None:
    """Nothing new starts in a deprecated namespace. Raises ApiError FAILED_PRECONDITION."""
    if namespace.state != NamespaceState.NAMESPACE_STATE_REGISTERED:
        state: NamespaceState.ValueType = namespace.state  # pyright: ignore[reportAssignmentType]
        raise namespace_invalid_state(namespace.name, state, [NamespaceState.NAMESPACE_STATE_REGISTERED])


def _is_too_long(text: str, limits: Limits) -> bool:
    return len(text.encode()) > limits.max_id_length


def _check_length(what: str, text: str, limits: Limits) -> None:
    if _is_too_long(text, limits):
        raise invalid_argument(f"{what} exceeds maximum allowed length ({len(text.encode())}/{limits.max_id_length})")


def _check_workflow_id(workflow_id: str, limits: Limits) -> None:
    if not workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    _check_length("WorkflowId", workflow_id, limits)


def _check_retry_policy(request: StartRequest, limits: Limits) -> None:
    """Without a policy a workflow is not retried."""
    if request.HasField("retry_policy"):
        fill_retry_policy(request.retry_policy, limits.default_workflow_retry)
        check_retry_policy(request.retry_policy)


def _check_delay(request: StartRequest, now: int) -> None:
    if request.cron_schedule and request.HasField("workflow_start_delay"):
        raise invalid_argument("CronSchedule and WorkflowStartDelay may not be used together.")
    check_duration(request.workflow_start_delay, "An invalid WorkflowStartDelaySeconds is set on request. cause")
    check_cron(request.cron_schedule, now)


def _check_timeouts(request: StartRequest) -> None:
    check_duration(request.workflow_execution_timeout, "An invalid WorkflowExecutionTimeoutSeconds is set on request. cause")
    check_duration(request.workflow_run_timeout, "An invalid WorkflowRunTimeoutSeconds is set on request. cause")
    check_duration(request.workflow_task_timeout, "An invalid WorkflowTaskTimeoutSeconds is set on request. cause")


def _check_policies(request: StartRequest) -> None:
    reuse, conflict = request.workflow_id_reuse_policy, request.workflow_id_conflict_policy
    if reuse == Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING and conflict:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together with a "
            "WorkflowIDConflictPolicy"
        )
    if reuse == Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE and conflict == Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING:
        raise invalid_argument(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with "
            "WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )


def _check_search_attributes(request: StartRequest, namespace: Namespace, limits: Limits) -> None:
    if request.HasField("search_attributes"):
        request.search_attributes.CopyFrom(validate_search_attributes(request.search_attributes, namespace, limits))


def _drop_nulls(request: StartRequest) -> None:
    """A null stands for no value: a new run has none that it could remove."""
    for fields in (request.search_attributes.indexed_fields, request.memo.fields):
        for name in [name for name, payload in fields.items() if is_null(payload)]:
            del fields[name]
    if not request.search_attributes.indexed_fields:
        request.ClearField("search_attributes")
    if not request.memo.fields:
        request.ClearField("memo")


def _finish(request: StartRequest, limits: Limits) -> None:
    """Fit the timeouts into each other, check sizes and the versioning override."""
    run, execution = duration_ns(request.workflow_run_timeout), duration_ns(request.workflow_execution_timeout)
    run = capped_run_timeout(run, execution)
    _set(request.workflow_run_timeout, run)
    _set(request.workflow_task_timeout, capped_task_timeout(duration_ns(request.workflow_task_timeout), run, limits))
    if request.input.ByteSize() > limits.blob_size_error_bytes:
        raise invalid_argument("Blob data size exceeds limit.")
    if request.memo.ByteSize() > limits.memo_size_error_bytes:
        raise invalid_argument("Memo size exceeds limit.")
    _drop_nulls(request)
    if request.HasField("versioning_override"):
        check_override(request.versioning_override, request.task_queue.name)
        request.versioning_override.CopyFrom(current_form(request.versioning_override))


def _set(duration: Duration, nanoseconds: int) -> None:
    if duration_ns(duration) != nanoseconds:
        duration.CopyFrom(to_duration(nanoseconds))
