"""PauseActivity, UnpauseActivity, ResetActivity, UpdateActivityOptions; and their …ActivityExecution forms for a workflow's activity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice.v1 import (
    PauseActivityExecutionRequest,
    PauseActivityExecutionResponse,
    PauseActivityRequest,
    PauseActivityResponse,
    ResetActivityExecutionRequest,
    ResetActivityExecutionResponse,
    ResetActivityRequest,
    ResetActivityResponse,
    UnpauseActivityExecutionRequest,
    UnpauseActivityExecutionResponse,
    UnpauseActivityRequest,
    UnpauseActivityResponse,
    UpdateActivityExecutionOptionsRequest,
    UpdateActivityExecutionOptionsResponse,
    UpdateActivityOptionsRequest,
    UpdateActivityOptionsResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import duration_ns
from perdure.core.errors import invalid_argument, not_found
from perdure.engine.transaction import Transaction
from perdure.features.workflow.activity.control import pause_activity, reset_activity, unpause_activity, update_options
from perdure.features.workflow.activity.metrics import count_control
from perdure.features.workflow.activity.options import changed_options, check_change, mask_paths, original_options
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.run.interaction import CLOSED
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import check_duration, check_priority, check_run_id

NO_SUCH_ACTIVITY = "Can't find pending activity with such ID. Invalid activityID or activity already completed"
NO_OPTIONS = "ActivityOptions are not provided"
NO_MASK = "UpdateMask is not provided"
BY_ID = "id"

Select = Callable[[WorkflowState], list[Activity]]
Control = Callable[[WorkflowStep, list[Activity]], None]
ByExecution = (
    PauseActivityExecutionRequest | UnpauseActivityExecutionRequest | ResetActivityExecutionRequest | UpdateActivityExecutionOptionsRequest
)


class _Named(Protocol):
    """How the older requests name activities."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...


class ActivityControlRpc:
    """Lets operators intervene with pending activities."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("PauseActivity", self.pause)
        methods.handle("UnpauseActivity", self.unpause)
        methods.handle("ResetActivity", self.reset)
        methods.handle("UpdateActivityOptions", self.update_options)
        methods.handle("PauseActivityExecution", self.pause_execution)
        methods.handle("UnpauseActivityExecution", self.unpause_execution)
        methods.handle("ResetActivityExecution", self.reset_execution)
        methods.handle("UpdateActivityExecutionOptions", self.update_execution_options)

    # -- by id, by type, or all --------------------------------------------------------------------------------------
    async def pause(self, request: PauseActivityRequest, call: Call) -> PauseActivityResponse:
        select, how = _select(request, request.execution.workflow_id, request.WhichOneof("activity"))

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            for activity in activities:
                pause_activity(step, activity, request.identity, request.reason, request.request_id)
            count_control(step, step.metrics.activity_pause, how)

        await self._control(call, request.execution.workflow_id, request.execution.run_id, select, control)
        return PauseActivityResponse()

    async def unpause(self, request: UnpauseActivityRequest, call: Call) -> UnpauseActivityResponse:
        select, how = _select(request, request.execution.workflow_id, request.WhichOneof("activity"))

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            for activity in activities:
                unpause_activity(
                    step, activity, reset_attempts=request.reset_attempts, reset_heartbeat=request.reset_heartbeat,
                    jitter=duration_ns(request.jitter),
                )  # fmt: skip
            count_control(step, step.metrics.activity_unpause, how)

        await self._control(call, request.execution.workflow_id, request.execution.run_id, select, control)
        return UnpauseActivityResponse()

    async def reset(self, request: ResetActivityRequest, call: Call) -> ResetActivityResponse:
        select, how = _select(request, request.execution.workflow_id, request.WhichOneof("activity"))

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            for activity in activities:
                reset_activity(
                    step, activity, reset_heartbeat=request.reset_heartbeat, keep_paused=request.keep_paused,
                    restore_options=request.restore_original_options, jitter=duration_ns(request.jitter),
                )  # fmt: skip
            count_control(step, step.metrics.activity_reset, how)

        await self._control(call, request.execution.workflow_id, request.execution.run_id, select, control)
        return ResetActivityResponse()

    async def update_options(self, request: UpdateActivityOptionsRequest, call: Call) -> UpdateActivityOptionsResponse:
        select, how = _select(request, request.execution.workflow_id, request.WhichOneof("activity"))
        check_priority(request.activity_options.priority, self._services.limits)
        _check_restore(request)
        options = await self._update(call, request.execution.workflow_id, request.execution.run_id, select, how, request)
        return UpdateActivityOptionsResponse(activity_options=options)

    # -- one activity ------------------------------------------------------------------------------------------------
    async def pause_execution(self, request: PauseActivityExecutionRequest, call: Call) -> PauseActivityExecutionResponse:
        self._check(request)
        if len(request.reason.encode()) > self._services.limits.blob_size_error_bytes:
            raise invalid_argument("reason exceeds length limit")
        select = _select_one(request)
        # Without an id it is a request of its own, not the repetition of another one that had none.
        request_id = request.request_id or self._services.engine.ids.uuid()

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            pause_activity(step, activities[0], request.identity, request.reason, request_id)
            count_control(step, step.metrics.activity_pause, BY_ID)

        await self._control(call, request.workflow_id, request.run_id, select, control)
        return PauseActivityExecutionResponse()

    async def unpause_execution(self, request: UnpauseActivityExecutionRequest, call: Call) -> UnpauseActivityExecutionResponse:
        self._check(request)
        check_duration(request.jitter, "invalid jitter")
        select = _select_one(request)

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            unpause_activity(step, activities[0], reset_attempts=False, reset_heartbeat=False, jitter=duration_ns(request.jitter))
            count_control(step, step.metrics.activity_unpause, BY_ID)

        await self._control(call, request.workflow_id, request.run_id, select, control)
        return UnpauseActivityExecutionResponse()

    async def reset_execution(self, request: ResetActivityExecutionRequest, call: Call) -> ResetActivityExecutionResponse:
        self._check(request)
        check_duration(request.jitter, "invalid jitter")
        select = _select_one(request)

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            reset_activity(
                step, activities[0], reset_heartbeat=request.reset_heartbeat, keep_paused=request.keep_paused,
                restore_options=request.restore_original_options, jitter=duration_ns(request.jitter),
            )  # fmt: skip
            count_control(step, step.metrics.activity_reset, BY_ID)

        await self._control(call, request.workflow_id, request.run_id, select, control)
        return ResetActivityExecutionResponse()

    async def update_execution_options(
        self, request: UpdateActivityExecutionOptionsRequest, call: Call
    ) -> UpdateActivityExecutionOptionsResponse:
        self._check(request)
        _check_restore(request)
        if not request.restore_original:
            if not request.HasField("activity_options"):
                raise invalid_argument(NO_OPTIONS)
            if not request.HasField("update_mask"):
                raise invalid_argument(NO_MASK)
            check_change(request.activity_options, request.update_mask.paths, self._services.limits)
        options = await self._update(call, request.workflow_id, request.run_id, _select_one(request), BY_ID, request)
        return UpdateActivityExecutionOptionsResponse(activity_options=options)

    def _check(self, request: ByExecution) -> None:
        """The official checks of what such requests have in common."""
        limit = self._services.limits.max_id_length
        checked = (("request ID", request.request_id), ("activity ID", request.activity_id), ("identity", request.identity))
        for what, text in checked:
            if what == "activity ID" and not text:
                raise invalid_argument("activity ID is required")
            if (length := len(text.encode())) > limit:
                raise invalid_argument(f"{what} exceeds length limit. Length={length} Limit={limit}")
        check_run_id(request.run_id, "invalid run id: must be a valid UUID")

    # -- what all of them do -------------------------------------------------------------------------------------------
    async def _update(
        self, call: Call, workflow_id: str, run_id: str, select: Select, how: str,
        request: UpdateActivityOptionsRequest | UpdateActivityExecutionOptionsRequest,
    ) -> ActivityOptions:  # fmt: skip
        """Change or restore options; returns those of the last activity changed."""
        changed = ActivityOptions()

        def select_after_checks(state: WorkflowState) -> list[Activity]:
            if not request.restore_original and not request.HasField("activity_options"):
                raise invalid_argument(NO_OPTIONS)
            return select(state)

        def control(step: WorkflowStep, activities: list[Activity]) -> None:
            count_control(step, step.metrics.activity_update_options, how)
            if request.restore_original:
                for activity in activities:
                    changed.CopyFrom(original_options(activity))
                    update_options(step, activity, None)
                return
            if not request.HasField("update_mask"):
                raise invalid_argument(NO_MASK)
            paths = mask_paths(request.update_mask.paths)
            updates = [
                (activity, changed_options(activity, request.activity_options, paths, step.limits, step.state.task_queue))
                for activity in activities
            ]
            for activity, options in updates:
                update_options(step, activity, options)
                changed.CopyFrom(options)
                changed.task_queue.kind = TaskQueueKind.TASK_QUEUE_KIND_NORMAL

        await self._control(call, workflow_id, run_id, select_after_checks, control)
        return changed

    async def _control(self, call: Call, workflow_id: str, run_id: str, select: Select, control: Control) -> None:
        """Select activities of an open run and do something to them; durable on return. Raises ApiError NOT_FOUND when there is none."""

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            activities = select(step.state)
            if not activities:
                raise not_found(NO_SUCH_ACTIVITY)
            control(step, activities)

        await self._services.step(call.namespace_id, workflow_id, run_id, decide)


def _check_restore(request: UpdateActivityOptionsRequest | UpdateActivityExecutionOptionsRequest) -> None:
    if request.restore_original and request.update_mask.paths:
        raise invalid_argument("Both UpdateMask and RestoreOriginal are provided")


def _select_one(request: ByExecution) -> Select:
    """The activity of a workflow that a request names."""
    if not request.workflow_id:
        # Without a workflow it is an activity of its own.
        raise not_found(f"activity not found for ID: {request.activity_id}")
    return lambda state: _named(state, request.activity_id)


def _select(request: _Named, workflow_id: str, which: str | None) -> tuple[Select, str]:
    """The activities that a request means (one by id, those of a type, or all), and which of these it is."""
    if not workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if which is None:
        raise invalid_argument("Either Activity.Id or Activity.Type should be set on request.")
    if which == BY_ID:
        return lambda state: _named(state, request.id), which
    if which == "type":
        return lambda state: [each for each in state.activities.values() if each.attributes.activity_type.name == request.type], which
    return lambda state: list(state.activities.values()), which


def _named(state: WorkflowState, activity_id: str) -> list[Activity]:
    scheduled_event_id = state.activity_ids.get(activity_id)
    return [state.activities[scheduled_event_id]] if scheduled_event_id is not None else []
