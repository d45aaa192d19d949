"""Reset: a new run that begins with a copy of another one's history, up to a workflow task that fails instead of ending as it did.

In one commit: the current run is terminated if it is open (a note says which of its children go on with the new run; the others get their
parent close policy), the base run learns which run was made from it, and the new run gets

1. the copied rows of the base run's journal (events only; what was in memory or under way at the time is not taken over),
2. a note with its origin: deadlines and pending activities count from now,
3. WORKFLOW_TASK_STARTED if the task was only scheduled (WORKFLOW_TASK_SCHEDULED before it, if that was another try of a task that had
   failed, which history does not show), and WORKFLOW_TASK_FAILED with the cause RESET_WORKFLOW,
4. what happened behind the point and is not to be lost (``reapply.py``),
5. changed options, if the request brings any, and a workflow task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ResetWorkflowFailureInfo
from temporalio.api.history.v1 import (
    History,
    HistoryEvent,
    WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes,
)

from perdure.core.clock import duration_ns
from perdure.core.errors import invalid_argument
from perdure.core.execution import Touch
from perdure.engine.live import AnyExecution
from perdure.engine.transaction import Transaction
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.reset.reapply import is_eligible, reapply
from perdure.features.workflow.run.closing import RESETTER_IDENTITY, SERVER_IDENTITY, terminate
from perdure.features.workflow.services import step_of
from perdure.features.workflow.state import ResetOrigin, TaskStatus, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import current_queue, fail_task, schedule_task
from perdure.store.protocol import JournalRow

NO_TASK_REQUEST_ID = "emptyUuid"
"""The request id of a task that nobody ever polled for; the official server's."""


class Moved(Exception):
    """The runs have changed so much since the plan was made that another one is needed."""


@dataclass(slots=True)
class ResetPlan:
    """All that a reset needs and that can be read before it is decided: what it reads cannot change any more.

    rows, state: the beginning of the new run's journal, and their fold. events: what happened behind the point, of kinds that may have to
    happen again. initiators: of the children that come over, the run that initiated each of them. current_run_id: the current run, "" for
    none; seen: up to which event id of it `events` reach, -1 when it has no part in them.
    """

    base_run_id: str
    new_run_id: str
    finish_event_id: int
    rows: list[JournalRow]
    state: WorkflowState
    events: list[HistoryEvent]
    initiators: dict[int, str]
    current_run_id: str
    seen: int


@dataclass(slots=True)
class ResetOptions:
    """What a request says beside the point. excluded: of what must not happen again. change: applied to the new run before it goes on."""

    reason: str
    request_id: str
    excluded: frozenset[int]
    change: Callable[[WorkflowStep], None]


def check_finish_event_id(event_id: int, next_event_id: int) -> None:
    """Raises ApiError INVALID_ARGUMENT when no workflow task can have ended there."""
    if not 1 < event_id < next_event_id:
        raise invalid_argument("Workflow task finish ID must be > 1 && <= workflow last event ID.")


def check_point(state: WorkflowState, finish_event_id: int, *, at_boundary: bool) -> None:
    """A run can only go on where a workflow task was pending, if only to be tried again after a failure, and between two changes: half of
    one (an activity that was started, without its end) is nothing that ever was.

    state: the fold up to the point. Raises ApiError INVALID_ARGUMENT.
    """
    if not at_boundary:
        raise invalid_argument(
            f"StateRebuilder unable to Rebuild mutable state to event ID: {finish_event_id - 1}, version: 0, "
            "this event must be at the boundary"
        )
    is_tried_again = state.task.attempt > 1 and not state.is_paused
    if not state.task.is_pending and not is_tried_again:
        raise invalid_argument(
            f"Can only reset workflow to event ID in range [WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]: {finish_event_id}"
        )


def reset_again(current: AnyExecution | None, request_id: str) -> str:
    """The id of the run that this request made before, "" when it did not."""
    origin: ResetOrigin | None = current.state.reset_origin if current is not None else None
    return current.key.run_id if current is not None and origin is not None and origin.request_id == request_id else ""


def reset(transaction: Transaction, plan: ResetPlan, options: ResetOptions) -> str:
    """Carry out a plan; returns the id of the new run, or of the one that the same request made before.

    Raises Moved when the plan does not hold any more: then nothing was changed.
    """
    current, base = transaction.current, transaction.run
    if run_id := reset_again(current, options.request_id):
        return run_id
    if base is None or (current.key.run_id if current is not None else "") != plan.current_run_id:
        raise Moved
    late: list[HistoryEvent] = []
    if current is not None:
        if plan.seen >= 0:
            late = _events_after(current, plan.seen)
        if current.state.is_open:
            step = step_of(transaction, current)
            step.note(_ended_by(plan, current.state))
            terminate(step, options.reason, RESETTER_IDENTITY)
            if plan.seen >= 0:
                late += History.FromString(step.events).events
    step_of(transaction, base).note(notes.ResetElsewhere(plan.new_run_id))
    step = transaction.fork(base.kind, plan.new_run_id, plan.rows, plan.state)
    assert isinstance(step, WorkflowStep)
    step.note(notes.RunReset(transaction.now, plan.base_run_id, plan.finish_event_id - 1, options.request_id, plan.initiators))
    _fail_task(step, options.reason, plan)
    of_base = plan.current_run_id == plan.base_run_id
    for event in (*plan.events, *(event for event in late if is_eligible(event, of_base=of_base))):
        reapply(step, event, options.excluded)
    options.change(step)
    schedule_task(step)
    return plan.new_run_id


def _ended_by(plan: ResetPlan, current: WorkflowState) -> notes.EndedByReset:
    """What the reset hands on from the run that it ends to the one that it makes."""
    handed_on = {plan.state.children[child_id].request_id(run_id) for child_id, run_id in plan.initiators.items()}
    children = [child_id for child_id, child in current.children.items() if child.request_id(current.run_id) in handed_on]
    old, new = current.started, plan.state.started
    has_parent = (old.parent_workflow_namespace_id, old.parent_workflow_execution, old.parent_initiated_event_id) == (
        new.parent_workflow_namespace_id, new.parent_workflow_execution, new.parent_initiated_event_id,
    )  # fmt: skip
    return notes.EndedByReset(children, has_parent)


def _events_after(execution: AnyExecution, event_id: int) -> list[HistoryEvent]:
    """What was written since the plan was made; it is still in memory, or else there was so much of it that a new plan is due."""
    if execution.state.next_event_id == event_id + 1:
        return []
    if not execution.tail or execution.tail[0].first_event_id > event_id + 1:
        raise Moved
    batches = [batch for batch in execution.tail if batch.last_event_id > event_id]
    return [event for batch in batches for event in History.FromString(batch.events).events if event.event_id > event_id]


def _fail_task(step: WorkflowStep, reason: str, plan: ResetPlan) -> None:
    task = step.state.task
    if not task.is_pending:
        step.event(
            WorkflowTaskScheduledEventAttributes(
                task_queue=current_queue(step.state), start_to_close_timeout=step.state.started.workflow_task_timeout, attempt=1
            )
        )
    if task.status == TaskStatus.SCHEDULED:
        step.event(
            WorkflowTaskStartedEventAttributes(
                scheduled_event_id=task.scheduled_event_id, identity=SERVER_IDENTITY, request_id=NO_TASK_REQUEST_ID,
                history_size_bytes=step.state.history_size,
            )
        )  # fmt: skip
    fail_task(
        step, WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        Failure(message=reason, reset_workflow_failure_info=ResetWorkflowFailureInfo()), SERVER_IDENTITY,
        base_run_id=plan.base_run_id, new_run_id=plan.new_run_id,
    )  # fmt: skip


@applies_note(notes.RunReset)
def _reset(state: WorkflowState, note: notes.RunReset, touch: Touch) -> None:
    """The run begins now: what it did before is history, and none of it is under way."""
    state.reset_origin = ResetOrigin(note.at, state.start_at, note.base_run_id, note.last_event_id, note.request_id)
    state.start_at = state.execution_at = note.at
    state.first_task_pending = False
    execution_timeout = duration_ns(state.started.workflow_execution_timeout)
    run_timeout = duration_ns(state.started.workflow_run_timeout)
    state.execution_deadline = note.at + execution_timeout if execution_timeout else 0
    state.run_deadline = note.at + run_timeout if run_timeout else 0
    for activity in state.activities.values():
        activity.first_scheduled_at = activity.scheduled_at = note.at
    for initiated_event_id, run_id in note.initiators.items():
        state.children[initiated_event_id].initiated_by = run_id
    for part in state.parts():
        touch(part)


@applies_note(notes.ResetElsewhere)
def _reset_elsewhere(state: WorkflowState, note: notes.ResetElsewhere, touch: Touch) -> None:
    state.reset_run_id = note.run_id


@applies_note(notes.EndedByReset)
def _ended_by_reset(state: WorkflowState, note: notes.EndedByReset, touch: Touch) -> None:
    state.was_reset = True
    state.has_successor_for_parent = note.has_parent
    for initiated_event_id in note.children:
        state.children[initiated_event_id].goes_on = True
