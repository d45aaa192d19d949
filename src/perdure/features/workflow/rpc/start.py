"""StartWorkflowExecution, SignalWithStartWorkflowExecution."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.common.v1 import Priority
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import duration_ns, to_duration
from perdure.core.errors import already_started
from perdure.core.execution import ChainKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.closing import terminate
from perdure.features.workflow.interaction import signal
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.services import WorkflowServices, step_of
from perdure.features.workflow.start import Start, begin
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.step import WorkflowStep

Reuse = WorkflowIdReusePolicy
Conflict = WorkflowIdConflictPolicy


@dataclass(slots=True)
class Started:
    """What a start came to. created: False when a run that was there already is the answer."""

    run_id: str
    created: bool
    status: Status


class StartRpc:
    """Begins workflow runs."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("StartWorkflowExecution", self.start)
        methods.handle("SignalWithStartWorkflowExecution", self.signal_with_start)

    async def start(self, request: StartWorkflowExecutionRequest, call: Call) -> StartWorkflowExecutionResponse:
        key = ChainKey(call.namespace_id, WORKFLOW, request.workflow_id)
        started = await self._services.engine.transact(key, None, lambda t: self.decide_start(t, request, call.namespace_id))
        return StartWorkflowExecutionResponse(run_id=started.run_id, started=started.created, status=started.status.value)  # pyright: ignore

    async def signal_with_start(
        self, request: SignalWithStartWorkflowExecutionRequest, call: Call
    ) -> SignalWithStartWorkflowExecutionResponse:
        key = ChainKey(call.namespace_id, WORKFLOW, request.workflow_id)

        def decide(transaction: Transaction) -> Started:
            current = transaction.current
            state: WorkflowState | None = current.state if current is not None else None
            if current is not None and state is not None and state.is_open:
                step = step_of(transaction, current)
                self._signal(step, request)
                return Started(current.key.run_id, False, state.status)
            started = self.decide_start(transaction, request, call.namespace_id, schedules_task=False)
            current = transaction.current
            assert current is not None
            self._signal(step_of(transaction, current), request)
            return started

        started = await self._services.engine.transact(key, None, decide)
        return SignalWithStartWorkflowExecutionResponse(run_id=started.run_id, started=started.created)

    def _signal(self, step: WorkflowStep, request: SignalWithStartWorkflowExecutionRequest) -> None:
        signal(
            step, request.signal_name, request.request_id, input=request.signal_input if request.HasField("signal_input") else None,
            header=request.header if request.HasField("header") else None, identity=request.identity, links=request.links,
        )  # fmt: skip

    def decide_start(
        self, transaction: Transaction, request: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest, namespace_id: str,
        *, schedules_task: bool = True,
    ) -> Started:  # fmt: skip
        """Begin a run, or answer with the one that is there, as the id policies say."""
        current = transaction.current
        if current is not None:
            state: WorkflowState = current.state
            if request.request_id and request.request_id == state.start_request_id:
                return Started(current.key.run_id, True, state.status)
            if state.is_open:
                if request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
                    return Started(current.key.run_id, False, state.status)
                if request.workflow_id_conflict_policy != Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING and (
                    request.workflow_id_reuse_policy != Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
                ):
                    message = f"Workflow execution is already running. WorkflowId: {state.workflow_id}, RunId: {state.run_id}."
                    raise already_started(message, state.start_request_id, state.run_id)
                terminate(step_of(transaction, current), "TerminateIfRunning WorkflowIdReusePolicy Policy", "history-service")
            else:
                self._check_reuse(request.workflow_id_reuse_policy, state)
        run_id = transaction.ids.uuid()
        kind = self._services.engine.kinds[WORKFLOW]
        step = transaction.create(kind, run_id)
        assert isinstance(step, WorkflowStep)
        namespace = self._services.namespaces.by_id(namespace_id)
        begin(step, self._start(request, namespace.retention), schedules_task=schedules_task)
        return Started(run_id, True, Status.RUNNING)

    def _check_reuse(self, policy: WorkflowIdReusePolicy.ValueType, state: WorkflowState) -> None:
        refused = policy == Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE or (
            policy == Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
            and state.status in (Status.COMPLETED, Status.CONTINUED_AS_NEW)
        )
        if refused:
            message = f"Workflow execution already finished successfully. WorkflowId: {state.workflow_id}, RunId: {state.run_id}."
            raise already_started(message, state.start_request_id, state.run_id)

    def _start(self, request: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest, retention: int) -> Start:
        timeout = duration_ns(request.workflow_task_timeout) or self._services.limits.default_workflow_task_timeout_ns
        attributes = WorkflowExecutionStartedEventAttributes(
            workflow_type=request.workflow_type, task_queue=TaskQueue(name=request.task_queue.name, kind=1),
            input=request.input if request.HasField("input") else None, identity=request.identity, attempt=1,
            workflow_execution_timeout=request.workflow_execution_timeout if duration_ns(request.workflow_execution_timeout) else None,
            workflow_run_timeout=request.workflow_run_timeout if duration_ns(request.workflow_run_timeout) else None,
            workflow_task_timeout=to_duration(timeout), first_workflow_task_backoff=to_duration(duration_ns(request.workflow_start_delay)),
            retry_policy=request.retry_policy if request.HasField("retry_policy") else None,
            memo=request.memo if request.HasField("memo") else None,
            search_attributes=request.search_attributes if request.HasField("search_attributes") else None,
            header=request.header if request.HasField("header") else None,
            priority=request.priority if request.HasField("priority") else Priority(),
        )  # fmt: skip
        return Start(
            attributes, request.request_id, retention, list(request.links),
            request.user_metadata if request.HasField("user_metadata") else None,
        )  # fmt: skip


