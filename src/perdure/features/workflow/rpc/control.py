"""PauseWorkflowExecution, UnpauseWorkflowExecution."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import (
    PauseWorkflowExecutionRequest,
    PauseWorkflowExecutionResponse,
    UnpauseWorkflowExecutionRequest,
    UnpauseWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.errors import invalid_argument, unimplemented
from perdure.engine.transaction import Transaction
from perdure.features.workflow.run.pause import pause, unpause
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep


class ControlRpc:
    """Lets operators hold a run and let it go on."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("PauseWorkflowExecution", self.pause)
        methods.handle("UnpauseWorkflowExecution", self.unpause)

    async def pause(self, request: PauseWorkflowExecutionRequest, call: Call) -> PauseWorkflowExecutionResponse:
        if not self._services.limits.workflow_pause_enabled:
            raise unimplemented(f"workflow pause is not enabled for namespace: {request.namespace}")

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            pause(step, identity=request.identity, reason=request.reason, request_id=request.request_id)

        self._check(request)
        await self._services.step(call.namespace_id, request.workflow_id, request.run_id, decide)
        return PauseWorkflowExecutionResponse()

    async def unpause(self, request: UnpauseWorkflowExecutionRequest, call: Call) -> UnpauseWorkflowExecutionResponse:
        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            unpause(step, identity=request.identity, reason=request.reason, request_id=request.request_id)

        self._check(request)
        await self._services.step(call.namespace_id, request.workflow_id, request.run_id, decide)
        return UnpauseWorkflowExecutionResponse()

    def _check(self, request: PauseWorkflowExecutionRequest | UnpauseWorkflowExecutionRequest) -> None:
        longest = self._services.limits.max_id_length
        for value, what in ((request.reason, "reason"), (request.request_id, "request id"), (request.identity, "identity")):
            if len(value.encode()) > longest:
                raise invalid_argument(f"{what} is too long.")
        if not request.workflow_id:
            raise invalid_argument("Can't load workflow execution.  WorkflowId not set.")
