"""What parents and children send each other: the start, the parent close policy, the report of the child's end."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import ContinueAsNewInitiator, ParentClosePolicy, StartChildWorkflowExecutionFailedCause, WorkflowIdReusePolicy
from temporalio.api.history.v1 import History, WorkflowExecutionStartedEventAttributes

from perdure.core.clock import MILLISECOND, duration_ns, to_duration, to_timestamp
from perdure.core.errors import ApiError, Code, already_started, busy_workflow
from perdure.core.execution import ChainKey, RunKey
from perdure.core.limits import Limits
from perdure.engine.transaction import Transaction
from perdure.features.namespace.registry import Namespace
from perdure.features.workflow import notes
from perdure.features.workflow.jobs import AskChild, CloseChild, ReportToParent, StartChild
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.other_runs.children import child_closed, child_start_failed, child_started
from perdure.features.workflow.other_runs.messenger import Messenger
from perdure.features.workflow.other_runs.outgoing import Child, is_run_of
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.run.cron import cron_backoff
from perdure.features.workflow.run.interaction import request_cancel
from perdure.features.workflow.run.pace import check_pace
from perdure.features.workflow.run.start import Start, begin
from perdure.features.workflow.run.versioning import hand_on
from perdure.features.workflow.run.versioning_override import check_override
from perdure.features.workflow.services import WorkflowExecution as Execution
from perdure.features.workflow.services import step_of
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import merge_priority

Reuse = WorkflowIdReusePolicy
FailedCause = StartChildWorkflowExecutionFailedCause

_PASSED_ON = (
    "input", "header", "workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout", "retry_policy", "memo",
    "search_attributes", "versioning_override",
)  # fmt: skip


REPORTED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED, Status.TIMED_OUT})
"""How a workflow ends; a run that was continued as new is not the end."""


class ChildMessages:
    """Delivers them."""

    def __init__(self, messenger: Messenger) -> None:
        self._messenger = messenger
        self._services = messenger.services

    def register(self) -> None:
        self._messenger.register(StartChild, self.start)
        self._messenger.register(AskChild, self.ask)
        self._messenger.register(CloseChild, self.close)
        self._messenger.register(ReportToParent, self.report)

    # -- parent to child: begin ---------------------------------------------------------------------------------
    async def start(self, key: RunKey, state: WorkflowState, job: StartChild) -> None:
        """Begin the child. The parent records that it began, or why it could not."""
        child = state.children[job.initiated_event_id]
        namespace = self._namespace(child.attributes.namespace_id)
        if namespace is None:
            cause = FailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            await self._messenger.record(key, lambda step: child_start_failed(step, job.initiated_event_id, cause))
            return
        if _has_bad_override(child):
            cause = FailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_INVALID_VERSIONING_OVERRIDE
            await self._messenger.record(key, lambda step: child_start_failed(step, job.initiated_event_id, cause))
            return
        request_id = child.request_id(key.run_id)
        attributes = self._started(key, state, child)
        chain = ChainKey(namespace.id, WORKFLOW, child.attributes.workflow_id)
        try:
            run_id = await self._messenger.deliver(
                chain, "", child.initiated_at,
                lambda target: target.run_id if target.start_request_id == request_id else None,
                lambda transaction: self._begin(transaction, child, attributes, namespace, request_id),
            )  # fmt: skip
        except ApiError as error:
            if error.code != Code.ALREADY_EXISTS:
                raise
            if await self._is_closing(key, state.previous_run_id, child):
                raise busy_workflow("the workflow id is still taken by a child of the run that a reset has ended") from None
            cause = FailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
            await self._messenger.record(key, lambda step: child_start_failed(step, job.initiated_event_id, cause))
            return
        await self._messenger.record(key, lambda step: child_started(step, job.initiated_event_id, run_id))

    async def _is_closing(self, key: RunKey, previous_run_id: str, child: Child) -> bool:
        """Whether a reset that ended the run before has yet to close a child of that run with the same workflow id."""
        previous = await self._services.engine.read(key.chain, previous_run_id) if previous_run_id else None
        if previous is None or not previous.state.was_reset:
            return False
        wanted = child.attributes.namespace_id, child.attributes.workflow_id
        children: Iterable[Child] = previous.state.children.values()
        return any((other.attributes.namespace_id, other.attributes.workflow_id) == wanted and other.must_close for other in children)

    def _namespace(self, namespace_id: str) -> Namespace | None:
        try:
            return self._services.namespaces.by_id(namespace_id)
        except KeyError:
            return None

    def _started(self, key: RunKey, parent: WorkflowState, child: Child) -> WorkflowExecutionStartedEventAttributes:
        """What the child's first event says, but for what depends on the time."""
        initiated = child.attributes
        parent_namespace = self._namespace(key.namespace_id)
        parent_execution = WorkflowExecution(workflow_id=key.business_id, run_id=key.run_id)
        root = parent.started.root_workflow_execution if parent.started.HasField("root_workflow_execution") else parent_execution
        started = WorkflowExecutionStartedEventAttributes(
            workflow_type=initiated.workflow_type, task_queue=initiated.task_queue, attempt=1, cron_schedule=initiated.cron_schedule,
            parent_workflow_namespace=parent_namespace.name if parent_namespace is not None else key.namespace_id,
            parent_workflow_namespace_id=key.namespace_id, parent_workflow_execution=parent_execution,
            parent_initiated_event_id=child.initiated_event_id, root_workflow_execution=root,
        )  # fmt: skip
        for name in _PASSED_ON:
            if initiated.HasField(name):
                getattr(started, name).CopyFrom(getattr(initiated, name))
        given = initiated.priority if initiated.HasField("priority") else None
        if given is not None or parent.given_priority is not None:
            started.priority.CopyFrom(merge_priority(parent.priority, given))
        same_queue = initiated.namespace_id == key.namespace_id and initiated.task_queue.name == parent.task_queue
        hand_on(parent, started, same_queue=same_queue, version=True)
        if initiated.cron_schedule:
            started.initiator = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        return started

    def _begin(
        self, transaction: Transaction, child: Child, attributes: WorkflowExecutionStartedEventAttributes, namespace: Namespace,
        request_id: str,
    ) -> str:  # fmt: skip
        run_id = transaction.ids.run_id(transaction.now)
        _make_way(transaction, child.attributes.workflow_id_reuse_policy, run_id, self._services.limits)
        now = transaction.now
        backoff = cron_backoff(attributes.cron_schedule, now, now)
        attributes.first_workflow_task_backoff.CopyFrom(to_duration(backoff or 0))
        if timeout := duration_ns(attributes.workflow_execution_timeout):
            deadline = (now + timeout + MILLISECOND // 2) // MILLISECOND * MILLISECOND
            attributes.workflow_execution_expiration_time.CopyFrom(to_timestamp(deadline))
        step = transaction.create(self._services.engine.kinds[WORKFLOW], run_id)
        assert isinstance(step, WorkflowStep)
        begin(step, Start(attributes, request_id, namespace.retention, user_metadata=child.user_metadata))
        return run_id

    # -- parent to child: has it ended? ---------------------------------------------------------------------------------
    async def ask(self, key: RunKey, state: WorkflowState, job: AskChild) -> None:
        """Record how a child that was handed on has ended, if it has. Whenever it ends from now on, it finds the way to this run."""
        child = state.children[job.initiated_event_id]
        run = await self._last_run(child)
        if run is None or run.state.status not in REPORTED:
            await self._messenger.record(key, lambda step: _found_running(step, job.initiated_event_id))
            return
        run_id, close_event_id = run.key.run_id, run.state.close_event_id
        batches = await self._services.engine.history(run, close_event_id, close_event_id)
        (closed,) = (e for batch in batches for e in History.FromString(batch.events).events if e.event_id == close_event_id)
        await self._messenger.record(key, lambda step: child_closed(step, job.initiated_event_id, child.first_run_id, run_id, closed))

    async def _last_run(self, child: Child) -> Execution | None:
        """The latest run of the workflow that was started as this child; None when there is none any more."""
        chain = ChainKey(child.attributes.namespace_id, WORKFLOW, child.attributes.workflow_id)
        run = await self._services.engine.read(chain, None)
        while run is not None and not is_run_of(run.state, child):
            earlier = run.state.previous_run_id
            run = await self._services.engine.read(chain, earlier) if earlier else None
        return run

    # -- parent to child: the parent has closed -----------------------------------------------------------------------
    async def close(self, key: RunKey, state: WorkflowState, job: CloseChild) -> None:
        """Apply the parent close policy to whichever run of the child is the current one."""
        # The start may be on its way still: afterwards the child either exists or never will.
        await self._messenger.ended(key, StartChild(0, job.initiated_event_id))
        child = state.children[job.initiated_event_id]
        parent = WorkflowExecution(workflow_id=key.business_id, run_id=key.run_id)

        def decide(transaction: Transaction) -> None:
            current = transaction.current
            if current is None or not current.state.is_open or not _must_follow(current.state, child, state):
                return
            step = step_of(transaction, current)
            if child.attributes.parent_close_policy == ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
                request_cancel(step, "", identity=SERVER_IDENTITY, reason="", external=parent)
            else:
                terminate(step, "by parent close policy", SERVER_IDENTITY)

        chain = ChainKey(child.attributes.namespace_id, WORKFLOW, child.attributes.workflow_id)
        await self._services.engine.transact(chain, None, decide)
        await self._messenger.record(key, lambda step: _policy_applied(step, job.initiated_event_id))

    # -- child to parent -----------------------------------------------------------------------------------------------
    async def report(self, key: RunKey, state: WorkflowState, job: ReportToParent) -> None:
        """Tell the parent how the child ended."""
        started, close_event = state.started, state.unreported
        assert close_event is not None
        parent = started.parent_workflow_execution
        chain = ChainKey(started.parent_workflow_namespace_id, WORKFLOW, parent.workflow_id)

        def decide(transaction: Transaction) -> None:
            run = transaction.run
            if run is None or not run.state.is_open:
                # If the parent was reset, however often, it goes on as the current run, which knows the child.
                run = transaction.current
                child = run.state.children.get(started.parent_initiated_event_id) if run is not None else None
                if run is None or child is None or not is_run_of(state, child):
                    return
            child_closed(
                step_of(transaction, run), started.parent_initiated_event_id, started.first_execution_run_id, key.run_id, close_event
            )

        await self._services.engine.transact(chain, parent.run_id, decide)
        await self._messenger.record(key, _informed)


def _has_bad_override(child: Child) -> bool:
    """Whether the child cannot be bound to the version that the command names."""
    if child.attributes.HasField("versioning_override"):
        try:
            check_override(child.attributes.versioning_override, child.attributes.task_queue.name)
        except ApiError:
            return True
    return False


def _make_way(transaction: Transaction, policy: WorkflowIdReusePolicy.ValueType, new_run_id: str, limits: Limits) -> None:
    """Ends a running workflow if that is the policy. Raises ApiError ALREADY_EXISTS when the id may not be used, RESOURCE_EXHAUSTED when it
    may not be used yet."""
    current = transaction.current
    if current is None:
        return
    state: WorkflowState = current.state
    refused = policy == Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE or (
        policy == Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and state.status in (Status.COMPLETED, Status.CONTINUED_AS_NEW)
    )
    if state.is_open:
        refused = policy != Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    if refused:
        message = f"Workflow execution is already running or finished. WorkflowId: {state.workflow_id}, RunId: {state.run_id}."
        raise already_started(message, state.start_request_id, state.run_id)
    check_pace(limits, state, transaction.now)
    if state.is_open:
        data = f'"terminated by new runID: {new_run_id}"'.encode()
        details = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=data)])
        terminate(step_of(transaction, current), "TerminateIfRunning WorkflowIdReusePolicy", SERVER_IDENTITY, details)


def _must_follow(run: WorkflowState, child: Child, parent: WorkflowState) -> bool:
    """Whether the end of a parent's run concerns a run under a child's workflow id, which may be somebody else's by now.

    A child that a reset handed on knows only the run that started it as its parent. It outlives the run that it was handed to, as on the
    official server, unless that one is ended by another reset: then nobody waits for it any more.
    """
    if parent.was_reset and is_run_of(run, child):
        return True
    started = run.started
    execution = started.parent_workflow_execution
    return (execution.workflow_id, execution.run_id, started.parent_initiated_event_id) == (
        parent.workflow_id,
        parent.run_id,
        child.initiated_event_id,
    )


def _policy_applied(step: WorkflowStep, initiated_event_id: int) -> None:
    if not step.state.children[initiated_event_id].is_closed:
        step.note(notes.ChildClosed(initiated_event_id))


def _found_running(step: WorkflowStep, initiated_event_id: int) -> None:
    child = step.state.children.get(initiated_event_id)
    if child is not None and not child.is_asked:
        step.note(notes.ChildFoundRunning(initiated_event_id))


def _informed(step: WorkflowStep) -> None:
    if step.state.unreported is not None:
        step.note(notes.ParentInformed())
