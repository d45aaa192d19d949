"""What a workflow run remembers: a tree of small parts, the fold of its journal.

Times are nanoseconds since the epoch, 0 where not set; timeouts are nanoseconds, 0 for none.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from temporalio.api.common.v1 import Callback, Link, Payload, Priority, RetryPolicy, WorkerVersionStamp
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.workflow.v1 import ResetPointInfo, VersioningOverride

from perdure.core.jobs import Job, Part
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.jobs import (
    DeleteRun,
    DispatchSpeculativeTask,
    DispatchWorkflowTask,
    FireTimer,
    FirstTaskDue,
    ReportToParent,
    RunTimeout,
    SpeculativeTaskTimeout,
    WorkflowTaskTimeout,
)
from perdure.features.workflow.other_runs.outgoing import Child, ExternalCancel, ExternalSignal
from perdure.features.workflow.run.callbacks import CompletionCallback
from perdure.features.workflow.update.pending import PendingUpdates

if TYPE_CHECKING:
    from perdure.features.workflow.task.completion_pages import CompletionPages
    from perdure.features.workflow.task.queries import WaitingQuery


class Status(enum.IntEnum):
    """How a run stands; the numbers are ``temporal.api.enums.v1.WorkflowExecutionStatus``."""

    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELED = 4
    TERMINATED = 5
    CONTINUED_AS_NEW = 6
    TIMED_OUT = 7
    PAUSED = 8


class TaskStatus(enum.IntEnum):
    """Where the workflow task stands. The table of its transitions opens ``task/lifecycle.py``.

    TRANSIENT: a retry whose events are not in history (yet): they are written when it completes. SPECULATIVE tasks are not here:
    they live in :class:`WorkflowVolatile`, in memory only.
    """

    NONE = 0
    SCHEDULED = 1
    STARTED = 2
    TRANSIENT_SCHEDULED = 3
    TRANSIENT_STARTED = 4
    SPECULATIVE_SCHEDULED = 5
    SPECULATIVE_STARTED = 6


# Looked up once: to ask an enumeration for a member costs more than the questions that are asked of it all the time.
_PAUSED = Status.PAUSED
_OPEN = frozenset({Status.RUNNING, Status.PAUSED})
_NO_TASK = TaskStatus.NONE
_SCHEDULED = frozenset({TaskStatus.SCHEDULED, TaskStatus.TRANSIENT_SCHEDULED, TaskStatus.SPECULATIVE_SCHEDULED})
_STARTED = frozenset({TaskStatus.STARTED, TaskStatus.TRANSIENT_STARTED, TaskStatus.SPECULATIVE_STARTED})
_WRITTEN = frozenset({TaskStatus.SCHEDULED, TaskStatus.STARTED})


class WorkflowTask(msgspec.Struct, gc=False):
    """The one workflow task a run may have at a time.

    attempt: of the present or next task; more than 1 makes it transient. sticky: it was scheduled to the sticky queue, whose worker has
    until schedule_to_start_deadline to take it; any worker has for a task that was speculative. last_started_event_id: of the last
    completed task (what the worker has seen). last_failure_cause, last_failure: of the latest failure since the last completed task;
    shown_cause: of the latest failure or timeout that is an event, None for a timeout. taken_back: it never got to its worker, so that its
    timeout, which follows, does not count. problems: how many counted attempts have failed or timed out since; alike: how many in a row in
    the same way.
    """

    status: TaskStatus = TaskStatus.NONE
    attempt: int = 1
    scheduled_event_id: int = 0
    started_event_id: int = 0
    scheduled_at: int = 0
    original_scheduled_at: int = 0
    started_at: int = 0
    start_to_close_timeout: int = 0
    schedule_to_start_deadline: int = 0
    sticky: bool = False
    request_id: str = ""
    identity: str = ""
    history_size_bytes: int = 0
    suggest_reasons: list[int] = []
    worker_version: WorkerVersionStamp | None = None
    last_started_event_id: int = 0
    last_failure_cause: int = 0
    last_failure: Failure | None = None
    shown_cause: int | None = None
    taken_back: bool = False
    problems: int = 0
    alike: int = 0

    @property
    def is_pending(self) -> bool:
        return self.status is not _NO_TASK

    @property
    def is_started(self) -> bool:
        return self.status in _STARTED

    @property
    def is_scheduled(self) -> bool:
        return self.status in _SCHEDULED

    @property
    def is_written(self) -> bool:
        """Whether its scheduled event is in history."""
        return self.status in _WRITTEN

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if not state.is_open:
            return
        if self.is_scheduled:
            yield DispatchWorkflowTask(0, self.scheduled_event_id, self.attempt, state.priority_changes)
            if self.schedule_to_start_deadline:
                yield WorkflowTaskTimeout(self.schedule_to_start_deadline, self.scheduled_event_id, self.attempt, False)
        elif self.is_started:
            yield WorkflowTaskTimeout(self.started_at + self.start_to_close_timeout, self.scheduled_event_id, self.attempt, True)


class Timer(msgspec.Struct, gc=False):
    """A workflow timer that has not fired."""

    timer_id: str
    started_event_id: int
    fire_at: int

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if state.is_open:
            yield FireTimer(self.fire_at, self.timer_id, self.started_event_id)


class SpeculativeTask(WorkflowTask):
    """A workflow task that is in memory only. serial: tells it from those before it, which may have had the same event id."""

    serial: int = 0

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if not state.is_open:
            return
        if self.is_started:
            yield SpeculativeTaskTimeout(self.started_at + self.start_to_close_timeout, self.serial, True)
        else:
            yield DispatchSpeculativeTask(0, self.serial)
            yield SpeculativeTaskTimeout(self.schedule_to_start_deadline, self.serial, False)


class WorkflowPause(msgspec.Struct, frozen=True, gc=False):
    """Who put the run on hold, when and why. request_id: pausing again with the same one changes nothing."""

    at: int
    identity: str
    reason: str
    request_id: str


class ResetOrigin(msgspec.Struct, frozen=True, gc=False):
    """Where a run that was made by a reset comes from: the run, and the last event taken over.

    started_at: when the first run of that history started. request_id: of the reset.
    """

    at: int
    started_at: int
    base_run_id: str
    last_event_id: int
    request_id: str


class Update(msgspec.Struct, gc=False):
    """An update that history knows and that is not completed. The ids of its events are 0 as long as there is none.

    admitted_event_id: set when it came over from the run that this one was reset from.
    """

    admitted_event_id: int = 0
    accepted_event_id: int = 0


class UpdateCallback(msgspec.Struct, gc=False):
    """Who wants to be told of an update's outcome. registered_at: nanoseconds since the epoch."""

    update_id: str
    request_id: str
    registered_at: int
    callback: Callback


class Versioning(msgspec.Struct, frozen=True, gc=False):
    """How a run is bound to versions of its workers.

    behavior: ``temporal.api.enums.v1.VersioningBehavior``; 0 for not at all, then there is no version.
    deployment_name: of the worker that completed the last workflow task, whatever the behaviour.
    """

    behavior: int = 0
    version: WorkerDeploymentVersion | None = None
    deployment_name: str = ""


FIRST_TASK_IDS = 1 << 20
"""Task ids begin behind this: tools expect them not to be 0."""


class WorkflowState(msgspec.Struct, gc=False):
    """The fold of a run's journal.

    started: the attributes of its first event (without the input, which history keeps). buffer: events that wait for
    the end of the workflow task.
    """

    status: Status = Status.RUNNING
    workflow_id: str = ""
    run_id: str = ""
    started: WorkflowExecutionStartedEventAttributes = msgspec.field(default_factory=WorkflowExecutionStartedEventAttributes)
    start_at: int = 0
    execution_at: int = 0
    close_at: int = 0
    close_event_id: int = 0
    retention: int = 0
    next_event_id: int = 1
    #: The task id of event n is n more than this: they grow along a run, and from one run to the next.
    earlier_task_ids: int = FIRST_TASK_IDS
    history_size: int = 0
    #: Of what the history refers to: payloads that workers keep elsewhere.
    external_payload_count: int = 0
    external_payload_bytes: int = 0
    task: WorkflowTask = msgspec.field(default_factory=WorkflowTask)
    first_task_pending: bool = False
    run_deadline: int = 0
    execution_deadline: int = 0
    sticky_queue: str = ""
    sticky_timeout: int = 0
    activities: dict[int, Activity] = {}
    activity_ids: dict[str, int] = {}
    #: Of the pending activities' attributes, inputs included.
    pending_bytes: int = 0
    #: Of all that is remembered of pending activities, but for their inputs and headers, which history keeps.
    activity_bytes: int = 0
    #: Activity type → how many pending activities of it are paused, where there is one.
    paused_types: dict[str, int] = {}
    timers: dict[str, Timer] = {}
    children: dict[int, Child] = {}
    external_signals: dict[int, ExternalSignal] = {}
    external_cancels: dict[int, ExternalCancel] = {}
    buffer: list[HistoryEvent] = []
    #: The next so many events of the journal were applied before (when they were buffered).
    numbering: int = 0
    cancel_requested: bool = False
    cancel_request_id: str = ""
    close_attempted: bool = False
    signal_count: int = 0
    #: Request id → event id, 0 while the event is buffered.
    signal_request_ids: dict[str, int] = {}
    start_request_id: str = ""
    #: Of starts, attachments and updates: request id → (event type, event id); event id 0 while the event is buffered.
    request_ids: dict[str, tuple[int, int]] = {}
    callbacks: list[CompletionCallback] = []
    versioning: Versioning = Versioning()
    versioning_override: VersioningOverride | None = None
    #: There was a versioning override, though perhaps there is none any more.
    was_overridden: bool = False
    memo: dict[str, Payload] = {}
    search_attributes: dict[str, Payload] = {}
    memo_bytes: bytes = b""
    search_attributes_json: str = "{}"
    priority: Priority = msgspec.field(default_factory=Priority)
    priority_changes: int = 0
    retry_policy: RetryPolicy | None = None
    user_metadata: UserMetadata | None = None
    last_completed_identity: str = ""
    updates: dict[str, Update] = {}
    #: Update id → id of its completed event, which has the outcome.
    completed_updates: dict[str, int] = {}
    update_callbacks: list[UpdateCallback] = []
    pause: WorkflowPause | None = None
    #: The run that was current before this one, "" for none; and the run that follows it, once this one has closed.
    previous_run_id: str = ""
    new_run_id: str = ""
    start_links: list[Link] = []
    reset_points: list[ResetPointInfo] = []
    #: Of the worker that completed the last workflow task.
    last_worker_version: WorkerVersionStamp | None = None
    #: A reset ended the run, and another run goes on in its place; and that one tells the parent how it ends.
    was_reset: bool = False
    has_successor_for_parent: bool = False
    #: How the run ended, as long as its parent does not know.
    unreported: HistoryEvent | None = None
    #: Somebody wants it gone; it is there only for what it owes to others.
    is_to_be_deleted: bool = False
    #: Set when a reset made this run; and the latest run that a reset made from this one, "" for none.
    reset_origin: ResetOrigin | None = None
    reset_run_id: str = ""
    #: What TemporalReportedProblems says; empty while the workflow tasks are well.
    reported_problems: list[str] = []

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN

    @property
    def is_paused(self) -> bool:
        return self.status is _PAUSED

    @property
    def given_priority(self) -> Priority | None:
        """None when nobody gave one, not even an empty one."""
        return self.priority if self.started.HasField("priority") or self.priority.ByteSize() else None

    @property
    def task_queue(self) -> str:
        return self.started.task_queue.name

    def deadline(self) -> int:
        """When the run times out; 0 for never."""
        return min((d for d in (self.run_deadline, self.execution_deadline) if d), default=0)

    def parts(self) -> Iterable[Part]:
        yield self
        if not self.is_open:
            # Nothing else means work then. They are told one after the other: whether any is left, the last of them knows.
            yield from reversed(self.children.values())
            return
        yield self.task
        yield from self.activities.values()
        yield from self.timers.values()
        yield from self.children.values()
        yield from self.external_signals.values()
        yield from self.external_cancels.values()

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if not self.is_open:
            if self.unreported is not None:
                yield ReportToParent(0)
            if self.is_to_be_deleted:
                yield DeleteRun(0)
            return
        if self.first_task_pending:
            yield FirstTaskDue(max(self.execution_at, 1))
        if deadline := self.deadline():
            yield RunTimeout(deadline)


class WorkflowVolatile:
    """What a run has in memory only; losing it loses nothing that anyone was promised.

    speculative: a workflow task that exists nowhere else; last_serial, last_started_at: of the latest such task. updates: not yet accepted.
    queries: that wait for a workflow task. pages: of a completion of which the last has not come.
    """

    __slots__ = ("last_serial", "last_started_at", "pages", "queries", "speculative", "updates")

    def __init__(self) -> None:
        self.speculative: SpeculativeTask | None = None
        self.last_serial = 0
        self.last_started_at = 0
        self.updates: PendingUpdates = {}
        self.queries: dict[str, WaitingQuery] = {}
        self.pages: CompletionPages | None = None
