"""DescribeWorkflowExecution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Memo, SearchAttributes
from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import CallbackState, EventType, PendingWorkflowTaskState, TaskQueueKind, VersioningBehavior
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import (
    CallbackInfo,
    PendingWorkflowTaskInfo,
    RequestIdInfo,
    ResetPoints,
    VersioningOverride,
    WorkflowExecutionConfig,
    WorkflowExecutionExtendedInfo,
    WorkflowExecutionInfo,
)
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse

from perdure.core.call import Call, MethodTable
from perdure.core.clock import to_duration, to_timestamp
from perdure.features.search_attributes.types import PREDEFINED, type_name
from perdure.features.workflow.activity.pending import pending_activity_info
from perdure.features.workflow.other_runs.children import pending_child_info
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.state import WorkflowState, WorkflowTask
from perdure.features.workflow.validation import check_execution

SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
_NO_TIME = Timestamp(seconds=-62_135_596_800)
"""The year 1: how the official server says that a run never expires."""


class DescribeRpc:
    """Describes runs, from memory."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("DescribeWorkflowExecution", self.describe)

    async def describe(self, request: DescribeWorkflowExecutionRequest, call: Call) -> DescribeWorkflowExecutionResponse:
        check_execution(request.execution if request.HasField("execution") else None)
        run = await self._services.run(call.namespace_id, request.execution.workflow_id, request.execution.run_id)
        custom = self._services.namespaces.by_id(call.namespace_id).search_attributes
        state, now = run.state, self._services.clock.now()
        return DescribeWorkflowExecutionResponse(
            execution_config=_config(state),
            workflow_execution_info=_info(run, custom),
            workflow_extended_info=_extended_info(state),
            pending_workflow_task=_pending_task(run.volatile.speculative or state.task),
            pending_activities=[pending_activity_info(activity, now) for activity in state.activities.values()],
            pending_children=[pending_child_info(child) for child in state.children.values()],
            callbacks=_callbacks(state),
        )


def _config(state: WorkflowState) -> WorkflowExecutionConfig:
    started = state.started
    config = WorkflowExecutionConfig(
        task_queue=TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        default_workflow_task_timeout=started.workflow_task_timeout,
        user_metadata=state.user_metadata,
    )
    if started.HasField("workflow_execution_timeout"):
        config.workflow_execution_timeout.CopyFrom(started.workflow_execution_timeout)
    if started.HasField("workflow_run_timeout"):
        config.workflow_run_timeout.CopyFrom(started.workflow_run_timeout)
    return config


def _info(run: WorkflowExecution, custom: Mapping[str, int]) -> WorkflowExecutionInfo:
    state = run.state
    started = state.started
    root = started.root_workflow_execution
    info = WorkflowExecutionInfo(
        execution=WorkflowExecutionId(workflow_id=state.workflow_id, run_id=state.run_id),
        type=started.workflow_type,
        start_time=to_timestamp(state.start_at),
        execution_time=to_timestamp(state.execution_at),
        status=state.status.value,  # pyright: ignore[reportArgumentType]
        history_length=state.next_event_id - 1,
        history_size_bytes=state.history_size,
        state_transition_count=run.sequence,
        memo=Memo(fields=state.memo),
        search_attributes=shown_attributes(state, custom),
        auto_reset_points=ResetPoints(points=state.reset_points),
        task_queue=state.task_queue,
        root_execution=WorkflowExecutionId(workflow_id=root.workflow_id or state.workflow_id, run_id=root.run_id or state.run_id),
        first_run_id=started.first_execution_run_id,
        external_payload_count=state.external_payload_count,
        external_payload_size_bytes=state.external_payload_bytes,
    )
    if state.given_priority is not None:
        info.priority.CopyFrom(state.given_priority)
    if state.last_worker_version is not None:
        info.most_recent_worker_version_stamp.CopyFrom(state.last_worker_version)
    if started.HasField("parent_workflow_execution"):
        info.parent_execution.CopyFrom(started.parent_workflow_execution)
        info.parent_namespace_id = started.parent_workflow_namespace_id
    if state.close_at:
        info.close_time.CopyFrom(to_timestamp(state.close_at))
        info.execution_duration.CopyFrom(to_duration(state.close_at - state.execution_at))
    _show_versioning(state, info)
    return info


def _show_versioning(state: WorkflowState, info: WorkflowExecutionInfo) -> None:
    versioning = state.versioning
    info.worker_deployment_name = versioning.deployment_name
    if state.was_overridden or versioning.behavior:
        info.versioning_info.behavior = versioning.behavior  # pyright: ignore[reportAttributeAccessIssue]
    if state.was_overridden:
        info.versioning_info.SetInParent()
    if versioning.version is not None:
        info.versioning_info.deployment_version.CopyFrom(versioning.version)
        name = f"{versioning.version.deployment_name}.{versioning.version.build_id}"
        info.versioning_info.version = name  # pyright: ignore[reportDeprecated]
    if state.versioning_override is not None:
        info.versioning_info.versioning_override.CopyFrom(_with_deprecated_fields(state.versioning_override))


def shown_attributes(state: WorkflowState, custom: Mapping[str, int]) -> SearchAttributes:
    """A run's search attributes, each with its present type, without those that the namespace has removed."""
    shown = SearchAttributes()
    for name, payload in state.search_attributes.items():
        value_type = custom.get(name) or PREDEFINED.get(name)
        if value_type:
            shown.indexed_fields[name].CopyFrom(payload)
            shown.indexed_fields[name].metadata["type"] = type_name(value_type).encode()
    return shown


def _with_deprecated_fields(override: VersioningOverride) -> VersioningOverride:
    """Older clients read the override from other fields."""
    told = VersioningOverride()
    told.CopyFrom(override)
    if override.WhichOneof("override") == "auto_upgrade":
        told.behavior = VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE
    elif override.WhichOneof("override") == "pinned":
        version = override.pinned.version
        told.behavior = VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
        told.pinned_version = f"{version.deployment_name}.{version.build_id}"
    return told


def _extended_info(state: WorkflowState) -> WorkflowExecutionExtendedInfo:
    info = WorkflowExecutionExtendedInfo(
        original_start_time=to_timestamp(state.reset_origin.started_at if state.reset_origin is not None else state.start_at),
        reset_run_id=state.reset_run_id,
        cancel_requested=state.cancel_requested,
        run_expiration_time=to_timestamp(state.run_deadline) if state.run_deadline else _NO_TIME,
        request_id_infos=dict(_request_ids(state)),
    )
    if state.execution_deadline:
        info.execution_expiration_time.CopyFrom(to_timestamp(state.execution_deadline))
    if state.reset_origin is not None:
        info.last_reset_time.CopyFrom(to_timestamp(state.reset_origin.at))
    if state.pause is not None:
        info.pause_info.identity = state.pause.identity
        info.pause_info.reason = state.pause.reason
        info.pause_info.paused_time.CopyFrom(to_timestamp(state.pause.at))
    return info


def _request_ids(state: WorkflowState) -> Iterator[tuple[str, RequestIdInfo]]:
    for request_id, (event_type, event_id) in state.request_ids.items():
        yield request_id, _request_id(event_type, event_id)
    for request_id, event_id in state.signal_request_ids.items():
        yield request_id, _request_id(SIGNALED, event_id)


def _request_id(event_type: int, event_id: int) -> RequestIdInfo:
    return RequestIdInfo(event_type=event_type, event_id=event_id, buffered=not event_id)  # pyright: ignore[reportArgumentType]


def _pending_task(task: WorkflowTask) -> PendingWorkflowTaskInfo | None:
    if not task.is_pending:
        return None
    info = PendingWorkflowTaskInfo(
        state=PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED,
        scheduled_time=to_timestamp(task.scheduled_at),
        original_scheduled_time=to_timestamp(task.original_scheduled_at),
        attempt=task.attempt,
    )
    if task.is_started:
        info.state = PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
        info.started_time.CopyFrom(to_timestamp(task.started_at))
    return info


def _callbacks(state: WorkflowState) -> Iterator[CallbackInfo]:
    for callback in state.callbacks:
        trigger = CallbackInfo.Trigger(workflow_closed=CallbackInfo.WorkflowClosed())
        yield CallbackInfo(
            callback=callback.callback,
            trigger=trigger,
            registration_time=to_timestamp(callback.registered_at),
            state=CallbackState.CALLBACK_STATE_STANDBY,
        )
    for callback in state.update_callbacks:
        completed = CallbackInfo.UpdateWorkflowExecutionCompleted(update_id=callback.update_id)
        yield CallbackInfo(
            callback=callback.callback,
            trigger=CallbackInfo.Trigger(update_workflow_execution_completed=completed),
            registration_time=to_timestamp(callback.registered_at),
            state=CallbackState.CALLBACK_STATE_STANDBY,
            request_id=callback.request_id,
        )
