"""RecordActivityTaskHeartbeatById, RespondActivityTask…ById: for whoever knows an activity's id but has no token."""

from __future__ import annotations

from typing import Protocol

from temporalio.api.workflowservice.v1 import (
    RecordActivityTaskHeartbeatByIdRequest,
    RecordActivityTaskHeartbeatByIdResponse,
    RespondActivityTaskCanceledByIdRequest,
    RespondActivityTaskCanceledByIdResponse,
    RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskCompletedByIdResponse,
    RespondActivityTaskFailedByIdRequest,
    RespondActivityTaskFailedByIdResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.features.workflow.rpc.activity_answers import ActivityAnswers, Target, by_id


class _Request(Protocol):
    """What all these requests say."""

    @property
    def workflow_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def activity_id(self) -> str: ...


class ActivityByIdRpc:
    """Takes answers about activities that are named by their ids."""

    def __init__(self, answers: ActivityAnswers) -> None:
        self._answers = answers

    def register(self, methods: MethodTable) -> None:
        methods.handle("RecordActivityTaskHeartbeatById", self.heartbeat)
        methods.handle("RespondActivityTaskCompletedById", self.complete)
        methods.handle("RespondActivityTaskFailedById", self.fail)
        methods.handle("RespondActivityTaskCanceledById", self.cancel)

    async def heartbeat(self, request: RecordActivityTaskHeartbeatByIdRequest, call: Call) -> RecordActivityTaskHeartbeatByIdResponse:
        details = request.details if request.HasField("details") else None
        told = await self._answers.heartbeat(_target(request, call), details, request.identity)
        return RecordActivityTaskHeartbeatByIdResponse(
            cancel_requested=told.cancel_requested, activity_paused=told.activity_paused, activity_reset=told.activity_reset
        )

    async def complete(self, request: RespondActivityTaskCompletedByIdRequest, call: Call) -> RespondActivityTaskCompletedByIdResponse:
        result = request.result if request.HasField("result") else None
        await self._answers.complete(_target(request, call), result, request.identity)
        return RespondActivityTaskCompletedByIdResponse()

    async def fail(self, request: RespondActivityTaskFailedByIdRequest, call: Call) -> RespondActivityTaskFailedByIdResponse:
        failure = request.failure if request.HasField("failure") else None
        details = request.last_heartbeat_details if request.HasField("last_heartbeat_details") else None
        problems = await self._answers.fail(_target(request, call), failure, details, request.identity)
        return RespondActivityTaskFailedByIdResponse(failures=problems)

    async def cancel(self, request: RespondActivityTaskCanceledByIdRequest, call: Call) -> RespondActivityTaskCanceledByIdResponse:
        details = request.details if request.HasField("details") else None
        await self._answers.cancel(_target(request, call), details, request.identity)
        return RespondActivityTaskCanceledByIdResponse()


def _target(request: _Request, call: Call) -> Target:
    return by_id(call.namespace_id, request.workflow_id, request.run_id, request.activity_id)
