"""Resume from failure: from a run's history, where to reset it so that what failed runs again and what was done before it stays.

It needs nothing but the public history, so it works with any server of the API. A run can be reset to any moment at which a workflow task
was pending. For an activity that is the latest such moment before it was started: the activity is pending there and handed out again; what
was scheduled beside it and completed earlier stays completed. A child workflow or a Nexus operation has to be begun anew, so its moment is
the workflow task that began it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

E = EventType


class NothingToResume(Exception):
    """There is no point to go back to; the message says why, and what to do instead."""


class PieceKind(Enum):
    ACTIVITY = "activity"
    CHILD = "child workflow"
    OPERATION = "Nexus operation"
    TIMER = "timer"
    CODE = "workflow code"


class Again(Enum):
    """How a piece of work comes to run again."""

    HANDED_OUT = "is handed out again"
    CODE_DECIDES = "runs again if the workflow's code gets there"
    GOES_ON = "goes on"


@dataclass(slots=True)
class Piece:
    """A piece of work that the workflow's code began. Its owner calls it a step of the workflow; our steps are something else.

    event_id: of its first event. ended_event_id: 0 while it is pending. outcome: in a word or two.
    """

    kind: PieceKind
    event_id: int
    task_completed_event_id: int
    name: str
    id: str
    started_event_id: int = 0
    ended_event_id: int = 0
    outcome: str = "pending"

    @property
    def has_failed(self) -> bool:
        return self.outcome in ("failed", "timed out", "not started", "terminated")


@dataclass(slots=True)
class ResumePoint:
    """Where to reset a run, and what follows from it.

    failed: the piece of work that is to run again. workflow_task_finish_event_id: for ResetWorkflowExecution. again: every other one that
    is not over at the point, with what becomes of it. kept: how many stay done. signals, updates: how many come behind the point, and are
    applied again unless they are excluded.
    """

    failed: Piece
    workflow_task_finish_event_id: int
    again: list[tuple[Piece, Again]]
    kept: int
    signals: int
    updates: int


@dataclass(slots=True)
class Story:
    """The history of one run, sorted by what it is about. It is told event by event; :func:`find_resume_point` reads it.

    tasks: [scheduled, finished) of every workflow task, finished 0 for a pending one.
    """

    pieces: dict[int, Piece] = field(default_factory=dict[int, Piece])
    tasks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    signals: list[int] = field(default_factory=list[int])
    updates: list[int] = field(default_factory=list[int])
    close: HistoryEvent | None = None
    last_event_id: int = 0

    def take(self, event: HistoryEvent) -> None:
        """The next event."""
        self.last_event_id = event.event_id
        which = event.WhichOneof("attributes")
        attributes: Any = getattr(event, which) if which else None
        event_type = event.event_type
        if event_type in _BEGINS:
            kind, name, identity = _BEGINS[event_type]
            self.pieces[event.event_id] = Piece(
                kind, event.event_id, attributes.workflow_task_completed_event_id, _field(attributes, name), _field(attributes, identity)
            )
        elif event_type in _STARTS:
            _set(self, getattr(attributes, _STARTS[event_type]), started_event_id=event.event_id)
        elif event_type in _ENDS:
            field_name, outcome = _ENDS[event_type]
            _set(self, getattr(attributes, field_name), ended_event_id=event.event_id, outcome=outcome)
        elif event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            self.tasks.append((event.event_id, 0))
        elif event_type in _TASK_ENDS and self.tasks:
            self.tasks[-1] = (self.tasks[-1][0], event.event_id)
        elif event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            self.signals.append(event.event_id)
        elif event_type in (E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED, E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED):
            self.updates.append(event.event_id)
        elif event_type in _CLOSES:
            self.close = event


def find_resume_point(story: Story, *, event_id: int = 0, activity_id: str = "") -> ResumePoint:
    """The point to which a run is reset so that a failed piece of work runs again.

    event_id: the first event of a piece of work, activity_id: of an activity, to choose it; else it is
    the one that made the run fail, or the one that failed last. Raises NothingToResume.
    """
    failed = _chosen(story, event_id, activity_id)
    last = _last_event_before(story, failed)
    again = [(one, _becomes(one, last)) for one in story.pieces.values() if one is not failed and not 0 < one.ended_event_id <= last]
    kept = sum(0 < one.ended_event_id <= last for one in story.pieces.values())
    return ResumePoint(
        failed, last + 1, again, kept, sum(i > last for i in story.signals), sum(i > last for i in story.updates)
    )  # fmt: skip


def as_json(point: ResumePoint, run_id: str) -> dict[str, Any]:
    """What a resume would do, for programs. run_id: of the run that it would be done to."""
    steps = [(point.failed, "runs again"), *((one, becomes.value) for one, becomes in point.again)]
    return {
        "run_id": run_id,
        "workflow_task_finish_event_id": point.workflow_task_finish_event_id,
        "steps_that_stay_done": point.kept,
        "signals": point.signals,
        "updates": point.updates,
        "again": [
            {"kind": one.kind.value, "name": one.name, "id": one.id, "event_id": one.event_id, "outcome": one.outcome, "then": then}
            for one, then in steps
        ],
    }


def _becomes(one: Piece, last_event_id: int) -> Again:
    if one.event_id > last_event_id:
        return Again.CODE_DECIDES
    return Again.HANDED_OUT if one.kind == PieceKind.ACTIVITY else Again.GOES_ON


# -- which one -----------------------------------------------------------------------------------------------
def _chosen(story: Story, event_id: int, activity_id: str) -> Piece:
    if event_id:
        one = story.pieces.get(event_id)
        if one is None:
            raise NothingToResume(f"event {event_id} does not begin an activity, a child workflow or a Nexus operation")
        return one
    if activity_id:
        found = [one for one in story.pieces.values() if one.kind == PieceKind.ACTIVITY and one.id == activity_id]
        if not found:
            raise NothingToResume(f"there is no activity with the id {activity_id!r} in the history")
        return found[-1]
    failed = [one for one in story.pieces.values() if one.has_failed]
    close = story.close
    if close is not None and close.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        task_id = close.workflow_execution_failed_event_attributes.workflow_task_completed_event_id
        ended_tasks = [finished for _, finished in story.tasks if finished]
        if not task_id and ended_tasks:
            # No task of the code decided that: the server ended the run because its task kept failing, whatever had failed before.
            return Piece(PieceKind.CODE, close.event_id, ended_tasks[-1], "the workflow task that kept failing", "", outcome="failed")
        blamed = _blamed(close.workflow_execution_failed_event_attributes.failure)
        if blamed in story.pieces:
            return story.pieces[blamed]
        if task_id:
            return Piece(PieceKind.CODE, close.event_id, task_id, "the workflow task in which it failed", "", outcome="failed")
    if failed:
        return max(failed, key=lambda one: one.ended_event_id)
    if close is None:
        raise NothingToResume("the run is open, and no activity, child workflow or Nexus operation of it has failed for good")
    raise NothingToResume("the run did not fail; to go back to a certain task, use a reset with an event id")


def _blamed(failure: Failure) -> int:
    """The event id of the piece of work that a failure comes from; 0 when it comes from the workflow's own code."""
    while True:
        match failure.WhichOneof("failure_info"):
            case "activity_failure_info":
                return failure.activity_failure_info.scheduled_event_id
            case "child_workflow_execution_failure_info":
                return failure.child_workflow_execution_failure_info.initiated_event_id
            case "nexus_operation_execution_failure_info":
                return failure.nexus_operation_execution_failure_info.scheduled_event_id
            case _:
                if not failure.HasField("cause"):
                    return 0
                failure = failure.cause


# -- which moment ---------------------------------------------------------------------------------------------
def _last_event_before(story: Story, one: Piece) -> int:
    """The last event that the new run takes over."""
    if one.kind == PieceKind.ACTIVITY:
        before = one.started_event_id or one.ended_event_id or story.last_event_id + 1
        best = max(_last_events(story, one.event_id, before), default=0)
        if best:
            return best
    return one.task_completed_event_id - 1


def _last_events(story: Story, after: int, before: int) -> Iterator[int]:
    """For every workflow task: the last event between two events (both excluded) at which it was pending."""
    for scheduled, finished in story.tasks:
        last = min(finished or before, before) - 1
        if last >= scheduled and last > after:
            yield last


# -- reading --------------------------------------------------------------------------------------------------
def _set(story: Story, event_id: int, **fields: Any) -> None:
    one = story.pieces.get(event_id)
    if one is not None:
        for name, value in fields.items():
            setattr(one, name, value)


def _field(attributes: Any, path: str) -> str:
    for name in filter(None, path.split(".")):
        attributes = getattr(attributes, name)
    return str(attributes) if path else ""


_BEGINS: dict[int, tuple[PieceKind, str, str]] = {
    E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: (PieceKind.ACTIVITY, "activity_type.name", "activity_id"),
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: (PieceKind.CHILD, "workflow_type.name", "workflow_id"),
    E.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: (PieceKind.OPERATION, "operation", "service"),
    E.EVENT_TYPE_TIMER_STARTED: (PieceKind.TIMER, "", "timer_id"),
}
_STARTS: dict[int, str] = {
    E.EVENT_TYPE_ACTIVITY_TASK_STARTED: "scheduled_event_id",
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: "initiated_event_id",
    E.EVENT_TYPE_NEXUS_OPERATION_STARTED: "scheduled_event_id",
}
_ENDS: dict[int, tuple[str, str]] = {
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("scheduled_event_id", "completed"),
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("scheduled_event_id", "failed"),
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("scheduled_event_id", "timed out"),
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("scheduled_event_id", "canceled"),
    E.EVENT_TYPE_TIMER_FIRED: ("started_event_id", "fired"),
    E.EVENT_TYPE_TIMER_CANCELED: ("started_event_id", "canceled"),
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: ("initiated_event_id", "not started"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: ("initiated_event_id", "completed"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: ("initiated_event_id", "failed"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: ("initiated_event_id", "canceled"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: ("initiated_event_id", "timed out"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: ("initiated_event_id", "terminated"),
    E.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: ("scheduled_event_id", "completed"),
    E.EVENT_TYPE_NEXUS_OPERATION_FAILED: ("scheduled_event_id", "failed"),
    E.EVENT_TYPE_NEXUS_OPERATION_CANCELED: ("scheduled_event_id", "canceled"),
    E.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: ("scheduled_event_id", "timed out"),
}
_TASK_ENDS = frozenset({E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, E.EVENT_TYPE_WORKFLOW_TASK_FAILED, E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT})
_CLOSES = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    }
)
