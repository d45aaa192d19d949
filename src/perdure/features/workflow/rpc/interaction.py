"""SignalWorkflowExecution, RequestCancelWorkflowExecution, TerminateWorkflowExecution, DeleteWorkflowExecution."""

from __future__ import annotations

from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DeleteWorkflowExecutionResponse,
    RequestCancelWorkflowExecutionRequest,
    RequestCancelWorkflowExecutionResponse,
    SignalWorkflowExecutionRequest,
    SignalWorkflowExecutionResponse,
    TerminateWorkflowExecutionRequest,
    TerminateWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import SECOND
from perdure.core.errors import invalid_argument, not_found
from perdure.core.execution import RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.rpc.waiting import Patience
from perdure.features.workflow.run.closing import terminate
from perdure.features.workflow.run.deletion import Deletions
from perdure.features.workflow.run.interaction import CLOSED, request_cancel, signal
from perdure.features.workflow.run.links import check_links, request_link
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import check_execution

DEFAULT_REASON = "terminated by user via frontend"
DEFAULT_IDENTITY = "frontend-service"

LAST_WORDS = 5 * SECOND
"""How long the caller who deletes a run waits for it to tell its children and its parent that it is gone."""


class InteractionRpc:
    """Lets others act upon workflow runs."""

    def __init__(self, services: WorkflowServices, deletions: Deletions) -> None:
        self._services = services
        self._deletions = deletions

    def register(self, methods: MethodTable) -> None:
        methods.handle("SignalWorkflowExecution", self.signal)
        methods.handle("RequestCancelWorkflowExecution", self.cancel)
        methods.handle("TerminateWorkflowExecution", self.terminate)
        methods.handle("DeleteWorkflowExecution", self.delete)

    async def signal(self, request: SignalWorkflowExecutionRequest, call: Call) -> SignalWorkflowExecutionResponse:
        limits = self._services.limits
        execution = _addressed(request)
        if not request.signal_name:
            raise invalid_argument("SignalName is not set on request.")
        if len(request.signal_name.encode()) > limits.max_id_length:
            raise invalid_argument("SignalName length exceeds limit.")
        if len(request.request_id.encode()) > limits.max_id_length:
            raise invalid_argument("RequestId length exceeds limit.")
        check_links(request.links, (), limits)
        if request.input.ByteSize() > limits.blob_size_error_bytes:
            raise invalid_argument("Blob data size exceeds limit.")

        def decide(step: WorkflowStep, transaction: Transaction) -> str:
            signal(
                step, request.signal_name, request.request_id, input=request.input if request.HasField("input") else None,
                header=request.header if request.HasField("header") else None, identity=request.identity, links=request.links,
            )  # fmt: skip
            return step.key.run_id

        run_id = await self._services.grow(call.namespace_id, execution.workflow_id, execution.run_id, decide)
        event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        link = request_link(request.namespace, execution.workflow_id, run_id, request.request_id, event_type)
        return SignalWorkflowExecutionResponse(link=link)

    async def cancel(self, request: RequestCancelWorkflowExecutionRequest, call: Call) -> RequestCancelWorkflowExecutionResponse:
        execution = _addressed(request)
        check_links(request.links, (), self._services.limits)

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if step.state.is_open:
                _check_first_run(step, request.first_execution_run_id)
            request_cancel(step, request.request_id, identity=request.identity, reason=request.reason, links=request.links)

        run_id = "" if request.first_execution_run_id else execution.run_id
        await self._services.grow(call.namespace_id, execution.workflow_id, run_id, decide)
        return RequestCancelWorkflowExecutionResponse()

    async def terminate(self, request: TerminateWorkflowExecutionRequest, call: Call) -> TerminateWorkflowExecutionResponse:
        execution = _addressed(request)
        check_links(request.links, (), self._services.limits)

        def decide(step: WorkflowStep, transaction: Transaction) -> None:
            if not step.state.is_open:
                raise not_found(CLOSED)
            _check_first_run(step, request.first_execution_run_id)
            details = request.details if request.HasField("details") else None
            terminate(step, request.reason or DEFAULT_REASON, request.identity or DEFAULT_IDENTITY, details, list(request.links))

        run_id = "" if request.first_execution_run_id else execution.run_id
        await self._services.step(call.namespace_id, execution.workflow_id, run_id, decide)
        return TerminateWorkflowExecutionResponse()

    async def delete(self, request: DeleteWorkflowExecutionRequest, call: Call) -> DeleteWorkflowExecutionResponse:
        """A run that is deleted while it runs is terminated first. It tells its children and its parent before it goes, however long that
        takes; the caller waits for it a while."""
        execution = _addressed(request)
        run = await self._services.run(call.namespace_id, execution.workflow_id, execution.run_id)
        if not await self._deletions.delete(run.key):
            await self._see_it_go(run.key, call)
        return DeleteWorkflowExecutionResponse()

    async def _see_it_go(self, key: RunKey, call: Call) -> None:
        patience = Patience(self._services, call, LAST_WORDS)
        while not patience.is_over:
            run = await self._services.engine.read(key.chain, key.run_id)
            if run is None:
                return
            await patience.next_change(run)


def _addressed(
    request: SignalWorkflowExecutionRequest
    | RequestCancelWorkflowExecutionRequest
    | TerminateWorkflowExecutionRequest
    | DeleteWorkflowExecutionRequest,
) -> WorkflowExecutionId:
    """The run that a request means. Raises ApiError INVALID_ARGUMENT when it does not say which."""
    check_execution(request.workflow_execution if request.HasField("workflow_execution") else None)
    return request.workflow_execution


def _check_first_run(step: WorkflowStep, first_run_id: str) -> None:
    """A caller that started a workflow means its chain of runs, not another that took its id. Raises ApiError NOT_FOUND."""
    if first_run_id and step.state.started.first_execution_run_id != first_run_id:
        raise not_found("workflow execution not found")
