"""SignalWorkflowExecution, RequestCancelWorkflowExecution, TerminateWorkflowExecution."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import (
    RequestCancelWorkflowExecutionRequest,
    RequestCancelWorkflowExecutionResponse,
    SignalWorkflowExecutionRequest,
    SignalWorkflowExecutionResponse,
    TerminateWorkflowExecutionRequest,
    TerminateWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.errors import not_found
from perdure.engine.transaction import Transaction
from perdure.features.workflow.closing import terminate
from perdure.features.workflow.interaction import CLOSED, request_cancel, signal
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep

DEFAULT_REASON = "terminated by user via frontend"
DEFAULT_IDENTITY = "frontend-service"


class InteractionRpc:
    """Lets others act upon running workflows."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("SignalWorkflowExecution", self.signal)
        methods.handle("RequestCancelWorkflowExecution", self.cancel)
        methods.handle("TerminateWorkflowExecution", self.terminate)

    async def signal(self, request: SignalWorkflowExecutionRequest, call: Call) -> SignalWorkflowExecutionResponse:
        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            signal(
                step, request.signal_name, request.request_id, input=request.input if request.HasField("input") else None,
                header=request.header if request.HasField("header") else None, identity=request.identity, links=request.links,
            )  # fmt: skip

        execution = request.workflow_execution
        await self._services.step(call.namespace_id, execution.workflow_id, execution.run_id, decide)
        return SignalWorkflowExecutionResponse()

    async def cancel(self, request: RequestCancelWorkflowExecutionRequest, call: Call) -> RequestCancelWorkflowExecutionResponse:
        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            request_cancel(step, request.request_id, identity=request.identity, reason=request.reason, links=request.links)

        execution = request.workflow_execution
        await self._services.step(call.namespace_id, execution.workflow_id, execution.run_id, decide)
        return RequestCancelWorkflowExecutionResponse()

    async def terminate(self, request: TerminateWorkflowExecutionRequest, call: Call) -> TerminateWorkflowExecutionResponse:
        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            details = request.details if request.HasField("details") else None
            terminate(step, request.reason or DEFAULT_REASON, request.identity or DEFAULT_IDENTITY, details, list(request.links))

        execution = request.workflow_execution
        await self._services.step(call.namespace_id, execution.workflow_id, execution.run_id, decide)
        return TerminateWorkflowExecutionResponse()
