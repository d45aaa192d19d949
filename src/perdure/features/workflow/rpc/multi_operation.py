"""ExecuteMultiOperation: update-with-start, one transaction for both.

The start finds a run for the update, or makes one: an update that the current run knows already is answered from it, whatever its state;
a running one is used if the conflict policy says so; else the start begins a run, or is refused, as it would be on its own. Either both
happen or neither does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType, WorkflowIdConflictPolicy
from temporalio.api.errordetails.v1 import MultiOperationExecutionFailure
from temporalio.api.failure.v1 import MultiOperationExecutionAborted
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    ExecuteMultiOperationResponse,
    StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
    UpdateWorkflowExecutionRequest,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import duration_ns
from perdure.core.errors import ApiError, Code, invalid_argument, namespace_not_found, not_found
from perdure.core.execution import ChainKey, RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.rpc.start import StartRpc
from perdure.features.workflow.rpc.update_stages import ABORTED, COMPLETED, Reached, UpdateLost, UpdateStages, update_response
from perdure.features.workflow.rpc.updates import prepare_update
from perdure.features.workflow.rpc.waiting import Patience
from perdure.features.workflow.services import WorkflowServices, step_of
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.update.lifecycle import admit, is_known
from perdure.features.workflow.update.pending import PendingUpdate

Response = ExecuteMultiOperationResponse.Response

USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING


@dataclass(frozen=True, slots=True)
class Begun:
    """What the transaction came to.

    started: it began the run. completed_event_id: of an update that was completed before, 0 if it was not.
    """

    key: RunKey
    started: bool
    status: Status
    pending: PendingUpdate | None = None
    completed_event_id: int = 0


class MultiOperationRpc:
    """Starts a workflow, or finds it running, and updates it."""

    def __init__(self, services: WorkflowServices, starts: StartRpc) -> None:
        self._services = services
        self._starts = starts
        self._stages = UpdateStages(services)

    def register(self, methods: MethodTable) -> None:
        methods.handle("ExecuteMultiOperation", self.execute)

    async def execute(self, request: ExecuteMultiOperationRequest, call: Call) -> ExecuteMultiOperationResponse:
        start, update = self._prepare(request, call.namespace_id)
        services = self._services
        with Patience(services, call, services.limits.history_long_poll_ns) as patience:
            first: Begun | None = None
            retried = False
            while True:
                is_started = first is not None and first.started
                begun = await self._begin(start, update, call.namespace_id, patience, is_started=is_started)
                first = first if first is not None and first.started else begun
                try:
                    reached = await self._reach(begun, update, patience)
                    return _response(start, update, first, begun.key.run_id, reached)
                except UpdateLost:
                    continue
                except ApiError as error:
                    closed_first = error.code == Code.NOT_FOUND and error.message == ABORTED and not first.started
                    if closed_first and not retried:
                        retried = True  # the run closed first; now the start can begin another one
                        continue
                    if closed_first:
                        error = ApiError(Code.ABORTED, error.message)
                    raise refused(None if first.started else _aborted(), error) from None

    # -- checks ---------------------------------------------------------------------------------------------
    def _prepare(
        self, request: ExecuteMultiOperationRequest, namespace_id: str
    ) -> tuple[StartWorkflowExecutionRequest, UpdateWorkflowExecutionRequest]:
        """The two operations, checked and filled in. Raises ApiError."""
        operations = request.operations
        variants = [operation.WhichOneof("operation") for operation in operations]
        if variants != ["start_workflow", "update_workflow"]:
            raise invalid_argument("Operations have to be exactly [Start, Update].")
        start, update = operations[0].start_workflow, operations[1].update_workflow
        start_error = _error_of(lambda: self._prepare_start(start, request.namespace, namespace_id))
        update_error = _error_of(lambda: self._prepare_update(update, request.namespace))
        if start_error is None and update_error is None and start.workflow_id != update.workflow_execution.workflow_id:
            update_error = invalid_argument("WorkflowId is not consistent with previous operation(s).")
        if start_error is not None or update_error is not None:
            raise refused(start_error or _aborted(), update_error or _aborted())
        return start, update

    def _prepare_start(self, start: StartWorkflowExecutionRequest, namespace: str, namespace_id: str) -> None:
        if start.namespace not in ("", namespace):
            raise invalid_argument("Operation namespace did not match request's namespace.")
        if not start.namespace:
            raise namespace_not_found("")
        self._starts.prepare(start, namespace_id)
        if start.cron_schedule:
            raise invalid_argument("CronSchedule is not allowed.")
        if start.request_eager_execution:
            raise invalid_argument("RequestEagerExecution is not supported.")
        if duration_ns(start.workflow_start_delay) > 0:
            raise invalid_argument("WorkflowStartDelay is not supported.")

    def _prepare_update(self, update: UpdateWorkflowExecutionRequest, namespace: str) -> None:
        if update.namespace not in ("", namespace):
            raise invalid_argument("Operation namespace did not match request's namespace.")
        prepare_update(update, self._services.limits, self._services.engine.ids)
        if update.first_execution_run_id:
            raise invalid_argument("FirstExecutionRunId is not allowed.")
        if update.workflow_execution.run_id:
            raise invalid_argument("RunId is not allowed.")

    # -- the transaction ------------------------------------------------------------------------------------
    async def _begin(
        self, start: StartWorkflowExecutionRequest, update: UpdateWorkflowExecutionRequest, namespace_id: str, patience: Patience,
        *, is_started: bool,
    ) -> Begun:  # fmt: skip
        """is_started: an earlier turn began the run; only its update was lost, so that a run that is there is used."""

        def decide(transaction: Transaction) -> Begun:
            begun = self._decide(transaction, start, update, namespace_id, is_started=is_started)
            assert transaction.current is not None
            patience.hold(transaction.current)
            return begun

        return await self._services.engine.transact(ChainKey(namespace_id, WORKFLOW, start.workflow_id), None, decide)

    def _decide(
        self, transaction: Transaction, start: StartWorkflowExecutionRequest, update: UpdateWorkflowExecutionRequest, namespace_id: str,
        *, is_started: bool,
    ) -> Begun:  # fmt: skip
        current = transaction.current
        if current is not None:
            state: WorkflowState = current.state
            update_id = update.request.meta.update_id
            if completed_event_id := state.completed_updates.get(update_id):
                return Begun(current.key, False, state.status, completed_event_id=completed_event_id)
            if state.is_open and (
                is_started
                or start.request_id == state.start_request_id
                or is_known(state, update_id)
                or update_id in current.volatile.updates
                or start.workflow_id_conflict_policy == USE_EXISTING
            ):
                return self._update(transaction, current.key, update, started=False, was_started=is_started)
        if is_started:
            raise refused(None, not_found(ABORTED))  # the run that was begun has closed, or is gone
        try:
            started = self._starts.decide_start(transaction, start, namespace_id)
        except ApiError as error:
            raise refused(error, _aborted()) from None
        if current is not None and started.run_id == current.key.run_id:
            # The same start, of a run that has closed since: it cannot be updated, and another must not begin.
            raise refused(ApiError(Code.UNAVAILABLE, "Workflow was not started: 3"), _aborted())
        return self._update(transaction, RunKey(*transaction.key, started.run_id), update, started=True)

    def _update(
        self, transaction: Transaction, key: RunKey, update: UpdateWorkflowExecutionRequest, *, started: bool, was_started: bool = False
    ) -> Begun:
        """started: this transaction begins the run; was_started: an earlier one did, and it stays begun whatever becomes of the update."""
        current = transaction.current
        assert current is not None
        try:
            pending = admit(step_of(transaction, current), update.request)
        except ApiError as error:
            raise refused(None if was_started else _aborted(), error) from None
        return Begun(key, started, Status.RUNNING, pending)

    async def _reach(self, begun: Begun, update: UpdateWorkflowExecutionRequest, patience: Patience) -> Reached:
        key = begun.key
        if begun.completed_event_id:
            execution = await self._services.run(key.namespace_id, key.business_id, key.run_id)
            return Reached(COMPLETED, await self._stages.outcome(execution, begun.completed_event_id))
        stage = update.wait_policy.lifecycle_stage
        return await self._stages.wait(key, update.request.meta.update_id, begun.pending, stage, patience)


def _response(
    start: StartWorkflowExecutionRequest, update: UpdateWorkflowExecutionRequest, begun: Begun, updated_run_id: str, reached: Reached
) -> ExecuteMultiOperationResponse:
    """The official server says less about a run that it did not touch.

    updated_run_id: the run that took the update, which may follow the one that was begun.
    """
    run_id = begun.key.run_id
    started = StartWorkflowExecutionResponse(run_id=run_id, started=begun.started, status=begun.status.value)  # pyright: ignore
    if begun.started:
        started.first_execution_run_id = run_id
    if not begun.completed_event_id:
        reference = Link.WorkflowEvent.EventReference(event_id=1, event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
        started.link.workflow_event.CopyFrom(
            Link.WorkflowEvent(namespace=start.namespace, workflow_id=start.workflow_id, run_id=run_id, event_ref=reference)
        )
    update.namespace = update.namespace or start.namespace
    updated = update_response(update, updated_run_id, reached, links=not begun.completed_event_id)
    return ExecuteMultiOperationResponse(responses=[Response(start_workflow=started), Response(update_workflow=updated)])


# -- errors -------------------------------------------------------------------------------------------------------
def _error_of(check: Callable[[], None]) -> ApiError | None:
    try:
        check()
    except ApiError as error:
        return error
    return None


def _aborted() -> ApiError:
    """What is said of an operation that failed only because the other one did."""
    return ApiError(Code.ABORTED, "Operation was aborted.", MultiOperationExecutionAborted())


def refused(start: ApiError | None, update: ApiError | None) -> ApiError:
    """The error of the whole: one status per operation (None: it succeeded), under the code of the first that failed by itself."""
    statuses: list[MultiOperationExecutionFailure.OperationStatus] = []
    for error in (start, update):
        status = MultiOperationExecutionFailure.OperationStatus()
        if error is not None:
            status.code, status.message = error.code, error.message
            if error.detail is not None:
                detail = Any()
                detail.Pack(error.detail)
                status.details.append(detail)
        statuses.append(status)
    culprit = next((e for e in (start, update) if e is not None and not isinstance(e.detail, MultiOperationExecutionAborted)), None)
    code = culprit.code if culprit is not None else Code.ABORTED
    return ApiError(code, "Update-with-Start could not be executed.", MultiOperationExecutionFailure(statuses=statuses))
