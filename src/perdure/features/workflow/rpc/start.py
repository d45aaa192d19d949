"""StartWorkflowExecution, SignalWithStartWorkflowExecution."""

from __future__ import annotations

import json
from dataclasses import dataclass

from temporalio.api.common.v1 import Link, Payload, Payloads
from temporalio.api.enums.v1 import ContinueAsNewInitiator, EventType, TaskQueueKind, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import MILLISECOND, duration_ns, to_duration, to_timestamp
from perdure.core.errors import already_started
from perdure.core.execution import ChainKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.rpc.start_checks import StartRequest, check_signal_with_start, check_start
from perdure.features.workflow.rpc.tasks import TaskRpc, hand_out
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.run.cron import cron_backoff
from perdure.features.workflow.run.interaction import signal
from perdure.features.workflow.run.links import event_link, request_link
from perdure.features.workflow.run.options import attach
from perdure.features.workflow.run.pace import check_pace
from perdure.features.workflow.run.start import Start, begin
from perdure.features.workflow.services import WorkflowServices, step_of
from perdure.features.workflow.state import Status, TaskStatus, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import end_first_backoff, schedule_task, start_task
from perdure.features.workflow.too_big import refuse_excess

Reuse = WorkflowIdReusePolicy
Conflict = WorkflowIdConflictPolicy
STARTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
OPTIONS_UPDATED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED

TERMINATED_REASON = "TerminateIfRunning WorkflowIdReusePolicy"
FINISHED_WELL = (Status.COMPLETED, Status.CONTINUED_AS_NEW)


@dataclass(slots=True)
class Started:
    """What a start came to.

    is_new: this request began the run (now, or when it was first sent). is_attached: the run was there; the request is attached to it.
    """

    run_id: str
    first_run_id: str
    status: Status
    is_new: bool
    is_attached: bool = False


class StartRpc:
    """Begins workflow runs."""

    def __init__(self, services: WorkflowServices, tasks: TaskRpc) -> None:
        self._services = services
        self._tasks = tasks

    def register(self, methods: MethodTable) -> None:
        methods.handle("StartWorkflowExecution", self.start)
        methods.handle("SignalWithStartWorkflowExecution", self.signal_with_start)

    def prepare(self, request: StartWorkflowExecutionRequest, namespace_id: str) -> None:
        """Refuse a start that makes no sense, and fill in its defaults. Raises ApiError."""
        services = self._services
        namespace = services.namespaces.by_id(namespace_id)
        check_start(request, namespace, services.limits, services.clock.now(), services.engine.ids)

    async def start(self, request: StartWorkflowExecutionRequest, call: Call) -> StartWorkflowExecutionResponse:
        self.prepare(request, call.namespace_id)
        key = ChainKey(call.namespace_id, WORKFLOW, request.workflow_id)
        started = await self._services.engine.transact(key, None, lambda t: self.decide_start(t, request, call.namespace_id))
        response = self.response(request, started)
        if request.request_eager_execution and started.is_new and not _has_backoff(request):
            await self._add_eager_task(response, key)
        return response

    def response(self, request: StartWorkflowExecutionRequest, started: Started) -> StartWorkflowExecutionResponse:
        """What the caller of a start is told."""
        where = (request.namespace, request.workflow_id, started.run_id)
        link: Link = request_link(*where, request.request_id, OPTIONS_UPDATED) if started.is_attached else event_link(*where, 1, STARTED)
        return StartWorkflowExecutionResponse(
            run_id=started.run_id,
            first_execution_run_id=started.first_run_id,
            started=started.is_new,
            status=started.status.value,  # pyright: ignore[reportArgumentType]
            link=link,
        )

    async def _add_eager_task(self, response: StartWorkflowExecutionResponse, key: ChainKey) -> None:
        """The first task comes with the answer, as long as it is the first attempt and still in the starter's hands."""
        execution = await self._services.run(key.namespace_id, key.business_id, response.run_id)
        task = execution.state.task
        if execution.state.started.eager_execution_accepted and task.status == TaskStatus.STARTED and task.started_event_id == 3:
            handed = hand_out(execution.key, execution.state, execution.volatile, [], is_sticky=False)
            eager = await self._tasks.whole(execution.key, handed)
            if eager is not None:
                response.eager_workflow_task.CopyFrom(eager)

    async def signal_with_start(
        self, request: SignalWithStartWorkflowExecutionRequest, call: Call
    ) -> SignalWithStartWorkflowExecutionResponse:
        services = self._services
        namespace = services.namespaces.by_id(call.namespace_id)
        check_signal_with_start(request, namespace, services.limits, services.clock.now(), services.engine.ids)
        key = ChainKey(call.namespace_id, WORKFLOW, request.workflow_id)
        started = await services.transact(key, None, lambda t: self._decide_signal_with_start(t, request, call.namespace_id))
        return SignalWithStartWorkflowExecutionResponse(
            run_id=started.run_id,
            first_execution_run_id=started.first_run_id,
            started=started.is_new,
            signal_link=request_link(request.namespace, request.workflow_id, started.run_id, request.request_id, SIGNALED),
        )

    def _decide_signal_with_start(
        self, transaction: Transaction, request: SignalWithStartWorkflowExecutionRequest, namespace_id: str
    ) -> Started:
        current = transaction.current
        if current is not None and request.request_id in current.state.signal_request_ids:
            # A repeated request; also when the run has ended meanwhile: it must not start another one.
            return _existing(current.state, is_new=False)
        if current is not None and current.state.is_open and not _terminates(request):
            step = step_of(transaction, current)
            _signal(step, request)
            end_first_backoff(step)
            schedule_task(step)
            refuse_excess(step)
            return _existing(step.state, is_new=False)
        started = self._decide(transaction, request, namespace_id, schedules_task=False)
        current = transaction.current
        assert current is not None
        step = step_of(transaction, current)
        _signal(step, request)
        schedule_task(step)
        return started

    def decide_start(
        self, transaction: Transaction, request: StartWorkflowExecutionRequest, namespace_id: str, *, schedules_task: bool = True
    ) -> Started:
        """Begin a run, or answer with the one that is there, as the request id and the id policies say.

        The request is prepared (see :meth:`prepare`). schedules_task: False leaves the first workflow task to the caller.
        """
        current = transaction.current
        if current is not None:
            state: WorkflowState = current.state
            event_type, _ = state.request_ids.get(request.request_id, (0, 0))
            if event_type == STARTED:
                return _existing(state, is_new=True)
            if event_type:
                return _existing(state, is_new=False, is_attached=True)
            if state.is_open and request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
                return self._use_existing(step_of(transaction, current), request)
        return self._decide(transaction, request, namespace_id, schedules_task=schedules_task)

    def _use_existing(self, step: WorkflowStep, request: StartWorkflowExecutionRequest) -> Started:
        if not request.HasField("on_conflict_options"):
            return _existing(step.state, is_new=False)
        options = request.on_conflict_options
        attach(
            step,
            request.request_id if options.attach_request_id else "",
            request.completion_callbacks if options.attach_completion_callbacks else (),
            request.links if options.attach_links else (),
        )
        return _existing(step.state, is_new=False, is_attached=options.attach_request_id)

    def _decide(self, transaction: Transaction, request: StartRequest, namespace_id: str, *, schedules_task: bool) -> Started:
        """Begin a run if the policies allow it. Raises ApiError ALREADY_EXISTS or RESOURCE_EXHAUSTED if not."""
        run_id = transaction.ids.run_id(transaction.now)
        current = transaction.current
        if current is not None:
            state: WorkflowState = current.state
            if not state.is_open:
                _check_reuse(request.workflow_id_reuse_policy, state)
            elif not _terminates(request):
                raise _refused(state, "Workflow execution is already running.", "")
            check_pace(self._services.limits, state, transaction.now)
            if state.is_open:
                details = Payloads(payloads=[_text(f"terminated by new runID: {run_id}")])
                terminate(step_of(transaction, current), TERMINATED_REASON, SERVER_IDENTITY, details)
        step = transaction.create(self._services.engine.kinds[WORKFLOW], run_id)
        assert isinstance(step, WorkflowStep)
        start = _start(request, self._services.namespaces.by_id(namespace_id).retention, transaction.now)
        begin(step, start, schedules_task=schedules_task)
        if start.attributes.eager_execution_accepted:
            start_task(step, request.identity, request.request_id)
        return Started(run_id, run_id, Status.RUNNING, True)


def _existing(state: WorkflowState, *, is_new: bool, is_attached: bool = False) -> Started:
    return Started(state.run_id, state.started.first_execution_run_id, state.status, is_new, is_attached)


def _terminates(request: StartRequest) -> bool:
    """Whether a running run has to make way."""
    return (
        request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        or request.workflow_id_reuse_policy == Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    )


def _check_reuse(policy: WorkflowIdReusePolicy.ValueType, state: WorkflowState) -> None:
    if policy == Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        raise _refused(state, "Workflow execution already finished.", " Workflow Id reuse policy: reject duplicate workflow Id.")
    if policy == Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and state.status in FINISHED_WELL:
        raise _refused(
            state,
            "Workflow execution already finished successfully.",
            " Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )


def _refused(state: WorkflowState, what: str, why: str) -> Exception:
    message = f"{what} WorkflowId: {state.workflow_id}, RunId: {state.run_id}.{why}"
    return already_started(message, state.start_request_id, state.run_id, state.started.first_execution_run_id)


def _text(text: str) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(text).encode())


def _signal(step: WorkflowStep, request: SignalWithStartWorkflowExecutionRequest) -> None:
    """The signal of a signal with start; a task for it is scheduled by the caller."""
    signal(
        step, request.signal_name, request.request_id, input=request.signal_input if request.HasField("signal_input") else None,
        header=request.header if request.HasField("header") else None, identity=request.identity, links=request.links, schedules_task=False,
    )  # fmt: skip


def _has_backoff(request: StartRequest) -> bool:
    return bool(duration_ns(request.workflow_start_delay) or request.cron_schedule)


def _start(request: StartRequest, retention: int, now: int) -> Start:
    """The started event of a request."""
    backoff = duration_ns(request.workflow_start_delay) or cron_backoff(request.cron_schedule, now, now) or 0
    attributes = WorkflowExecutionStartedEventAttributes(
        workflow_type=request.workflow_type, identity=request.identity, attempt=1, cron_schedule=request.cron_schedule,
        task_queue=TaskQueue(name=request.task_queue.name, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
        first_workflow_task_backoff=to_duration(backoff),
    )  # fmt: skip
    for name in _COPIED:
        if request.HasField(name):  # pyright: ignore[reportArgumentType]
            getattr(attributes, name).CopyFrom(getattr(request, name))
    if timeout := duration_ns(request.workflow_execution_timeout):
        expires_at = (now + timeout + MILLISECOND // 2) // MILLISECOND * MILLISECOND
        attributes.workflow_execution_expiration_time.CopyFrom(to_timestamp(expires_at))
    if request.cron_schedule:
        attributes.initiator = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    links = list(request.links)
    if isinstance(request, StartWorkflowExecutionRequest):
        for name in _COPIED_FROM_START:
            if request.HasField(name):
                getattr(attributes, name).CopyFrom(getattr(request, name))
        attributes.completion_callbacks.extend(request.completion_callbacks)
        attributes.eager_execution_accepted = request.request_eager_execution and not backoff
    return Start(attributes, request.request_id, retention, links, request.user_metadata if request.HasField("user_metadata") else None)


_COPIED = (
    "input",
    "header",
    "memo",
    "search_attributes",
    "workflow_execution_timeout",
    "workflow_run_timeout",
    "workflow_task_timeout",
    "retry_policy",
    "priority",
    "versioning_override",
)
_COPIED_FROM_START = ("last_completion_result", "continued_failure")
