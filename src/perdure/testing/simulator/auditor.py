"""Takes note of everything that clients and workers were told; some of it must never be told at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.errordetails.v1 import MultiOperationExecutionFailure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationResponse,
    PollActivityTaskQueueResponse,
    PollWorkflowExecutionUpdateResponse,
    PollWorkflowTaskQueueResponse,
    ResetWorkflowExecutionRequest,
    ResetWorkflowExecutionResponse,
    SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from perdure.core.errors import ApiError, Code
from perdure.testing.simulator import activity_ledger
from perdure.testing.simulator.programs import Program, value_of

ACCEPTED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
EXPECTED_REFUSALS = frozenset(
    {Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED}
)
ANSWERS_TASK = activity_ledger.ANSWERS | {"RespondWorkflowTaskCompleted", "RespondWorkflowTaskFailed"}


class Auditor:
    """Told of every answer that a living server gave, whether or not it arrived; the audit compares it with the store."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        #: What is due later than this has to happen in time (nanoseconds since the epoch).
        self.punctual_after = 0
        #: By so much the clock was set back, all in all, nanoseconds.
        self.set_back = 0
        self.runs_of_start: defaultdict[str, set[str]] = defaultdict(set)
        #: Signal → run id that it was sent to.
        self.signals: dict[str, str] = {}
        self.signals_with_start: dict[str, str] = {}
        #: (run id, update id) of which a client was told that far.
        self.accepted_updates: set[tuple[str, str]] = set()
        self.completed_updates: set[tuple[str, str]] = set()
        #: Of updates with a start that were refused: starts that did not happen, those that did nevertheless, updates that did not.
        self.refused_starts: set[str] = set()
        self.begun_starts: set[str] = set()
        self.refused_updates: set[str] = set()
        #: Changes of a run's options: the fairness key that each sets, of its own → the run that it was made to, "" for the current one.
        self.options: dict[str, str] = {}
        #: Runs that somebody asked to delete, their workflow ids, and those of which it was said that they are.
        self.doomed: set[str] = set()
        self.doomed_ids: set[str] = set()
        self.deleted: set[str] = set()
        #: Resets that somebody asked for, by the token that is their reason and request id; and the runs that they were said to have made.
        self.resets: dict[str, ResetWorkflowExecutionRequest] = {}
        self.runs_of_reset: defaultdict[str, set[str]] = defaultdict(set)
        self.activities = activity_ledger.ActivityLedger(self.fail)
        self._answered_tokens: set[bytes] = set()
        self._workflow_tokens: set[bytes] = set()
        self.seen_events: defaultdict[str, dict[int, bytes]] = defaultdict(dict)

    def fail(self, problem: str) -> None:
        """Note that something is wrong."""
        self.failures.append(problem)

    def may_be_deleted(self, workflow_id: str, run_id: str) -> None:
        """A client is about to ask for the deletion of a run."""
        self.doomed_ids.add(workflow_id)
        self.doomed.add(run_id)

    def may_be_reset(self, request: ResetWorkflowExecutionRequest) -> None:
        """Somebody is about to ask for this reset."""
        self.resets[request.request_id] = request

    def asked(self, method: str, request: Any) -> None:
        """Somebody calls; the request may get lost."""
        self.activities.asked(method, request)

    def refused_multi_operation(
        self, start: StartWorkflowExecutionRequest, update: UpdateWorkflowExecutionRequest, error: ApiError
    ) -> None:
        """An update with start was refused, and sent only once: what is said not to have happened has not."""
        if not isinstance(error.detail, MultiOperationExecutionFailure):
            return
        token = value_of(start.input, Program).token
        (self.refused_starts if error.detail.statuses[0].code else self.begun_starts).add(token)
        self.refused_updates.add(update.request.meta.update_id)

    def answered(self, method: str, request: Any, answer: Message | ApiError) -> None:
        """The server answered a call."""
        if isinstance(answer, ApiError):
            self.answers[f"{method} {answer.code.name}"] += 1
            self._refused(method, answer)
            return
        self.answers[method] += 1
        if method in ("StartWorkflowExecution", "SignalWithStartWorkflowExecution"):
            self._started(request, answer)
        elif method == "SignalWorkflowExecution":
            self.signals[value_of(request.input)] = request.workflow_execution.run_id
        elif method == "UpdateWorkflowExecutionOptions":
            self.options[request.workflow_execution_options.priority.fairness_key] = request.workflow_execution.run_id
        elif method == "DeleteWorkflowExecution":
            self.deleted.add(request.workflow_execution.run_id)
        elif isinstance(answer, ResetWorkflowExecutionResponse):
            self.runs_of_reset[request.request_id].add(answer.run_id)
        elif isinstance(answer, ExecuteMultiOperationResponse):
            self._started(request.operations[0].start_workflow, answer.responses[0].start_workflow)
            self._updated(answer.responses[1].update_workflow)
        elif isinstance(answer, UpdateWorkflowExecutionResponse | PollWorkflowExecutionUpdateResponse):
            self._updated(answer)
        elif isinstance(answer, PollActivityTaskQueueResponse):
            if answer.task_token:
                self.activities.handed_out(answer)
        elif isinstance(answer, PollWorkflowTaskQueueResponse):
            self._handed_workflow_task(answer)
        self.activities.done(method, request)
        if method in ANSWERS_TASK:
            self._accepted(method, request.task_token)

    def _refused(self, method: str, error: ApiError) -> None:
        if error.code in EXPECTED_REFUSALS:
            return
        if method == "RespondWorkflowTaskCompleted" and error.message == "UnhandledCommand":
            return
        if method == "ExecuteMultiOperation" and error.code == Code.ABORTED:
            return
        if method == "ResetWorkflowExecution" and error.code == Code.INVALID_ARGUMENT:
            return  # there was no such point; whoever knows that there was one says so
        self.fail(f"{method} was refused: {error!r}")

    def _started(self, request: Any, answer: Any) -> None:
        if isinstance(request, SignalWithStartWorkflowExecutionRequest):
            self.signals_with_start[value_of(request.signal_input)] = answer.run_id
        if answer.started:
            self.runs_of_start[value_of(request.input, Program).token].add(answer.run_id)

    def _updated(self, answer: UpdateWorkflowExecutionResponse | PollWorkflowExecutionUpdateResponse) -> None:
        reference = answer.update_ref
        update = (reference.workflow_execution.run_id, reference.update_id)
        if answer.outcome.HasField("success"):
            self.completed_updates.add(update)
        elif answer.stage == ACCEPTED:
            self.accepted_updates.add(update)

    def _handed_workflow_task(self, task: PollWorkflowTaskQueueResponse) -> None:
        if not task.task_token:
            return
        if task.task_token in self._workflow_tokens:
            self.fail(f"a workflow task of {task.workflow_execution.workflow_id} was handed out twice")
        self._workflow_tokens.add(task.task_token)

    def _accepted(self, method: str, token: bytes) -> None:
        if token in self._answered_tokens:
            self.fail(f"{method} was accepted, but its task token had been accepted before")
        self._answered_tokens.add(token)

    def known(self, run_id: str) -> int:
        """The last event of a run that anybody has been shown. Whoever asks from now on has to be shown it, too."""
        return max(self.seen_events[run_id], default=0) if run_id in self.seen_events else 0

    def saw(self, run_id: str, events: Sequence[HistoryEvent]) -> None:
        """Somebody was shown these events: they must never change or go away."""
        seen = self.seen_events[run_id]
        for event in events:
            data = fingerprint(event)
            if seen.setdefault(event.event_id, data) != data:
                self.fail(f"event {event.event_id} of run {run_id} was another one before: now {EventType.Name(event.event_type)}")


def fingerprint(event: HistoryEvent) -> bytes:
    """All that must not change of an event once somebody has seen it. A task that is not written has no task id, nor who started it."""
    seen = HistoryEvent()
    seen.CopyFrom(event)
    seen.ClearField("task_id")
    if seen.HasField("workflow_task_started_event_attributes"):
        seen.workflow_task_started_event_attributes.ClearField("identity")
    return seen.SerializeToString(deterministic=True)
