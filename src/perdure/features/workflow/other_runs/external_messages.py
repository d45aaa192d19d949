"""Signals and cancel requests on their way to other workflows."""

from __future__ import annotations

from collections.abc import Callable

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import CancelExternalWorkflowExecutionFailedCause, SignalExternalWorkflowExecutionFailedCause

from perdure.core.errors import ApiError, Code, not_found
from perdure.core.execution import ChainKey, RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.jobs import SendCancel, SendSignal
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.other_runs.external import cancel_delivered, cancel_failed, signal_delivered, signal_failed
from perdure.features.workflow.other_runs.messenger import Messenger
from perdure.features.workflow.other_runs.outgoing import is_run_of, message_id
from perdure.features.workflow.run.closing import SERVER_IDENTITY
from perdure.features.workflow.run.interaction import request_cancel, signal
from perdure.features.workflow.services import no_such_run, step_of
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

CancelFailed = CancelExternalWorkflowExecutionFailedCause
SignalFailed = SignalExternalWorkflowExecutionFailedCause


class ExternalMessages:
    """Delivers them."""

    def __init__(self, messenger: Messenger) -> None:
        self._messenger = messenger

    def register(self) -> None:
        self._messenger.register(SendCancel, self.cancel)
        self._messenger.register(SendSignal, self.signal)

    def _namespace_name(self, namespace_id: str) -> str | None:
        try:
            return self._messenger.services.namespaces.by_id(namespace_id).name
        except KeyError:
            return None

    async def cancel(self, key: RunKey, state: WorkflowState, job: SendCancel) -> None:
        """Ask another workflow to cancel itself. One that has closed needs no asking."""
        cancel = state.external_cancels[job.initiated_event_id]
        attributes = cancel.attributes
        target = attributes.workflow_execution
        name = self._namespace_name(attributes.namespace_id)
        if name is None:
            cause = CancelFailed.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            given = attributes.namespace  # pyright: ignore[reportDeprecated]
            await self._messenger.record(key, lambda step: cancel_failed(step, job.initiated_event_id, given, cause))
            return
        message = message_id(key.run_id, job.initiated_event_id)

        def decide(step: WorkflowStep) -> None:
            if step.state.is_open and attributes.child_workflow_only:
                _check_parent(step.state, key, state)
            request_cancel(
                step, message, identity=SERVER_IDENTITY, reason=attributes.reason, initiated_event_id=job.initiated_event_id,
                external=_sender(key),
            )  # fmt: skip

        try:
            await self._deliver(
                key, attributes.namespace_id, target, cancel.initiated_at, lambda run: run.cancel_request_id == message, decide
            )
        except ApiError as error:
            if error.code != Code.NOT_FOUND:
                raise
            cause = CancelFailed.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
            await self._messenger.record(key, lambda step: cancel_failed(step, job.initiated_event_id, name, cause))
            return
        await self._messenger.record(key, lambda step: cancel_delivered(step, job.initiated_event_id, name))

    async def signal(self, key: RunKey, state: WorkflowState, job: SendSignal) -> None:
        """Signal another workflow."""
        pending = state.external_signals[job.initiated_event_id]
        attributes = pending.attributes
        name = self._namespace_name(attributes.namespace_id)
        if name is None:
            cause = SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            given = attributes.namespace  # pyright: ignore[reportDeprecated]
            await self._messenger.record(key, lambda step: signal_failed(step, job.initiated_event_id, given, cause))
            return
        message = message_id(key.run_id, job.initiated_event_id)

        def decide(step: WorkflowStep) -> None:
            if step.state.is_open and attributes.child_workflow_only:
                _check_parent(step.state, key, state)
            signal(
                step, attributes.signal_name, message, input=attributes.input if attributes.HasField("input") else None,
                header=attributes.header if attributes.HasField("header") else None, identity=SERVER_IDENTITY, external=_sender(key),
            )  # fmt: skip

        try:
            await self._deliver(
                key, attributes.namespace_id, attributes.workflow_execution, pending.initiated_at,
                lambda run: message in run.signal_request_ids, decide,
            )  # fmt: skip
        except ApiError as error:
            if error.code == Code.NOT_FOUND:
                cause = SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
            elif error.code == Code.INVALID_ARGUMENT:
                cause = SignalFailed.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
            else:
                raise
            await self._messenger.record(key, lambda step: signal_failed(step, job.initiated_event_id, name, cause))
            return
        await self._messenger.record(key, lambda step: signal_delivered(step, job.initiated_event_id, name))

    async def _deliver(
        self, sender: RunKey, namespace_id: str, target: WorkflowExecution, since: int, has: Callable[[WorkflowState], bool],
        decide: Callable[[WorkflowStep], None],
    ) -> None:  # fmt: skip
        """Raises ApiError; NOT_FOUND also when a workflow addresses itself."""
        if (namespace_id, target.workflow_id) == (sender.namespace_id, sender.business_id):
            raise not_found("a workflow cannot address itself")

        def with_step(transaction: Transaction) -> bool:
            if transaction.run is None:
                raise no_such_run(target.workflow_id, target.run_id)
            decide(step_of(transaction, transaction.run))
            return True

        chain = ChainKey(namespace_id, WORKFLOW, target.workflow_id)
        await self._messenger.deliver(chain, target.run_id, since, lambda run: True if has(run) else None, with_step)


def _sender(key: RunKey) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=key.business_id, run_id=key.run_id)


def _check_parent(target: WorkflowState, sender: RunKey, sender_state: WorkflowState) -> None:
    """Raises ApiError NOT_FOUND when the sender is not the target's parent, neither by its start nor by a reset that handed it on."""
    parent = target.started.parent_workflow_execution
    is_parent = (parent.workflow_id, parent.run_id) == (sender.business_id, sender.run_id)
    if not is_parent and not any(is_run_of(target, child) for child in sender_state.children.values()):
        raise not_found("workflow parent does not match")
