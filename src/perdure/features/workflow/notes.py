"""Private records of a workflow run: what is true but is no history event (or not yet)."""

from __future__ import annotations

from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

from perdure.core.records import Note


class RunCreated(Note, frozen=True, tag="created"):
    """What a run needs to know and its first event does not say. earlier_task_ids: the last task id of the run before."""

    workflow_id: str
    run_id: str
    retention: int
    start_request_id: str
    previous_run_id: str = ""
    earlier_task_ids: int = 0


class RetentionChanged(Note, frozen=True, tag="retention"):
    """The namespace keeps closed runs for another time now than when this run began. retention: nanoseconds."""

    retention: int


class EventBuffered(Note, frozen=True, tag="buffered"):
    """An event that arrived while a workflow task ran: it has happened, but gets its id only when the task ends."""

    event: HistoryEvent


class BufferFlushed(Note, frozen=True, tag="flushed"):
    """The next `count` events of the journal were buffered before: they are numbered now, not applied again."""

    count: int


class BufferedEventDropped(Note, frozen=True, tag="unbuffered"):
    """A buffered event did not happen after all (its timer was canceled first)."""

    index: int


class TransientTaskScheduled(Note, frozen=True, tag="transient-scheduled"):
    """A retry of a workflow task was scheduled; its events are written only when it completes."""

    scheduled_event_id: int
    at: int
    start_to_close_timeout: int


class TaskHeartbeat(Note, frozen=True, tag="task-heartbeat"):
    """The present task continues the one before (the worker is still busy with local activities); it counts from
    `original_scheduled_at`."""

    original_scheduled_at: int


class TaskMadeNormal(Note, frozen=True, tag="task-made-normal"):
    """The present task, just scheduled in history, was in memory only before. As before, a worker has to take it until `deadline`."""

    deadline: int


class TransientTaskStarted(Note, frozen=True, tag="transient-started"):
    """A transient workflow task was handed to a worker."""

    at: int
    request_id: str
    identity: str
    history_size_bytes: int
    suggest_reasons: list[int]
    worker_version: WorkerVersionStamp | None = None


class TransientTaskFailed(Note, frozen=True, tag="transient-failed"):
    """A transient workflow task failed; there is no event. cause: WorkflowTaskFailedCause."""

    cause: int
    failure: Failure | None


class TransientTaskTimedOut(Note, frozen=True, tag="transient-timed-out"):
    """A transient workflow task was not answered in time; there is no event."""


class TaskTakenBack(Note, frozen=True, tag="task-taken-back"):
    """The started workflow task never left the server, because its worker had gone. If history has its start, its timeout follows there,
    and does not count."""


class FirstTaskReleased(Note, frozen=True, tag="first-task"):
    """The wait before the first workflow task is over (it passed, or a request ended it)."""


class StickyChanged(Note, frozen=True, tag="sticky"):
    """The worker asked for a queue of its own ("" ends that). timeout: how long it has to take a task, nanoseconds."""

    queue: str
    timeout: int


class ActivityStarted(Note, frozen=True, tag="activity-started"):
    """An activity attempt was handed to a worker. Its event is written when the activity ends."""

    scheduled_event_id: int
    at: int
    request_id: str
    identity: str


class ActivityTakenBack(Note, frozen=True, tag="activity-taken-back"):
    """An attempt was handed out, but its worker had gone before it could be sent: it waits in the queue again."""

    scheduled_event_id: int


class ActivityRetryScheduled(Note, frozen=True, tag="activity-retry"):
    """An attempt failed or timed out; the next one may start at `at`. completed_at: when a worker last said that an attempt is over."""

    scheduled_event_id: int
    at: int
    completed_at: int
    failure: Failure | None


class ActivityRescheduled(Note, frozen=True, tag="activity-rescheduled"):
    """An operator's doing: the attempt that waits may start at `at`, and earlier failures are forgotten."""

    scheduled_event_id: int
    at: int


class ActivityPaused(Note, frozen=True, tag="activity-paused"):
    """An operator paused an activity."""

    scheduled_event_id: int
    at: int
    identity: str
    reason: str
    request_id: str


class ActivityUnpaused(Note, frozen=True, tag="activity-unpaused"):
    """An operator lets an activity go on."""

    scheduled_event_id: int
    reset_attempts: bool


class ActivityReset(Note, frozen=True, tag="activity-reset"):
    """An operator lets an activity begin again."""

    scheduled_event_id: int
    reset_heartbeat: bool
    keep_paused: bool
    restore_options: bool


class ActivityOptionsUpdated(Note, frozen=True, tag="activity-options"):
    """An operator changed an activity's options; None: back to those it was scheduled with."""

    scheduled_event_id: int
    options: ActivityOptions | None


class ProblemsReported(Note, frozen=True, tag="problems"):
    """The workflow task has failed so often that the run is marked; the keywords say what is wrong."""

    keywords: list[str]


class RunReset(Note, frozen=True, tag="reset"):
    """This run began as a copy of another one's history, up to `last_event_id`; its clocks start anew at `at`.

    initiators: which run initiated the children that came over, by initiated event id.
    """

    at: int
    base_run_id: str
    last_event_id: int
    request_id: str
    initiators: dict[int, str]


class ResetElsewhere(Note, frozen=True, tag="reset-elsewhere"):
    """Another run was made from the beginning of this one."""

    run_id: str


class EndedByReset(Note, frozen=True, tag="ended-by-reset"):
    """A reset ends this run, and another one goes on in its place.

    children: that the other run goes on with, by initiated event id. has_parent: the other run is the same parent's same child.
    """

    children: list[int]
    has_parent: bool


class ReadmittedUpdateRejected(Note, frozen=True, tag="update-rejected"):
    """A worker rejected an update that history says was admitted (it came over in a reset): it is over."""

    update_id: str


class ParentInformed(Note, frozen=True, tag="parent-informed"):
    """The parent knows how this run ended (or is gone itself)."""


class ChildClosed(Note, frozen=True, tag="child-closed"):
    """The parent close policy was applied to a child that was still open when its parent closed."""

    initiated_event_id: int


class DeletionRequested(Note, frozen=True, tag="deletion-requested"):
    """This closed run is to be deleted, as soon as it owes nothing to others."""


class ChildFoundRunning(Note, frozen=True, tag="child-found-running"):
    """A child that a reset handed on to this run has not ended yet: when it does, it will say so."""

    initiated_event_id: int


class ResetPointsForgotten(Note, frozen=True, tag="reset-points-forgotten"):
    """There are more reset points than a run may have: the oldest ones, so many, are dropped."""

    count: int


ALL = (
    ResetPointsForgotten,
    ParentInformed,
    ChildClosed,
    ChildFoundRunning,
    DeletionRequested,
    RunCreated,
    RetentionChanged,
    EventBuffered,
    BufferFlushed,
    BufferedEventDropped,
    TransientTaskScheduled,
    TaskHeartbeat,
    TaskMadeNormal,
    TransientTaskStarted,
    TransientTaskFailed,
    TransientTaskTimedOut,
    TaskTakenBack,
    FirstTaskReleased,
    StickyChanged,
    ProblemsReported,
    RunReset,
    ResetElsewhere,
    EndedByReset,
    ReadmittedUpdateRejected,
    ActivityStarted,
    ActivityTakenBack,
    ActivityRetryScheduled,
    ActivityRescheduled,
    ActivityPaused,
    ActivityUnpaused,
    ActivityReset,
    ActivityOptionsUpdated,
)
