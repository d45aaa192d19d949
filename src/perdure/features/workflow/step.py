"""A step of a workflow run: numbers events, and buffers those that arrive while a workflow task runs.

Events that tell the worker something new (a signal, a result) may not get between a workflow task's started and completed events. So they
are applied at once but numbered at the end of the step, or, while a task runs, at the end of the task. Events that a worker's command or a
task makes are numbered at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.sdk.v1 import UserMetadata

from perdure.core.clock import SECOND
from perdure.core.limits import Limits
from perdure.core.step import Step
from perdure.features.namespace.registry import Namespace, NamespaceRegistry
from perdure.features.workflow import notes
from perdure.features.workflow.registry import ATTRIBUTES, EVENT_APPLIERS
from perdure.features.workflow.run.metrics import count_close
from perdure.features.workflow.state import SpeculativeTask, WorkflowState, WorkflowTask, WorkflowVolatile
from perdure.observability.server_metrics import ServerMetrics

if TYPE_CHECKING:
    from perdure.features.workflow.task.completion_pages import CompletionBuffer

E = EventType

NUMBERED_AT_ONCE = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        E.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        E.EVENT_TYPE_WORKFLOW_TASK_FAILED,
        E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        E.EVENT_TYPE_TIMER_STARTED,
        E.EVENT_TYPE_TIMER_CANCELED,
        E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        E.EVENT_TYPE_MARKER_RECORDED,
        E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        E.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        E.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        E.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED,
        E.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
    }
)
"""Run and task events, and what comes straight from a worker's command or message; all others are bufferable."""

CLOSE_EVENTS = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    }
)
"""The run ends with one of these."""

FLUSHED_LAST = frozenset(
    {
        E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        E.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        E.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        E.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        E.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        E.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        E.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    }
)
"""Results go behind everything else that was buffered (SDKs rely on seeing signals first)."""

MAY_BE_IGNORED = frozenset(
    {
        E.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
        E.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED,
        E.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED,
        E.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED,
    }
)
"""Events that an older SDK may skip; marked so that it does not take them for an error."""


class WorkflowStep(Step[WorkflowState, WorkflowVolatile]):
    """The step that decisions about a workflow run get.

    There are two views of the workflow task. ``step.task`` is the present one, be it in the journal or in memory only: ask it whether a
    task is pending or started, and whether it is the one that a worker means. ``step.state.task`` is what the journal knows: attempts,
    failures, the last completed task, and, once ``write_task_events`` was called, the task that an event is about to end. Appliers have
    only that one.
    """

    def __init__(
        self, limits: Limits, namespaces: NamespaceRegistry, metrics: ServerMetrics, completion_buffer: CompletionBuffer, *arguments: Any
    ) -> None:
        super().__init__(*arguments)
        self.completion_buffer = completion_buffer
        self.limits = limits
        self.namespaces = namespaces
        self.metrics = metrics
        #: The size that the history had before this step: what a task that starts in this step is told.
        self.history_size = self.state.history_size
        #: While a worker's commands are carried out, no task is scheduled: only wants_task is set.
        self.holds_task = False
        self.wants_task = False
        #: Somebody has made sure that the run does not become too big by this step.
        self.size_is_checked = False
        self._waiting: list[HistoryEvent] = []

    @property
    def namespace(self) -> Namespace:
        """The run's own namespace; others are found through `namespaces`."""
        return self.namespaces.by_id(self.key.namespace_id)

    @property
    def task(self) -> WorkflowTask:
        """The present workflow task, in the journal or in memory only."""
        return self.volatile.speculative or self.state.task

    @property
    def has_changes(self) -> bool:
        return self.has_records or bool(self._waiting)

    @property
    def has_waiting_events(self) -> bool:
        """Whether events wait for their ids."""
        return bool(self._waiting or self.state.buffer)

    def set_speculative(self, task: SpeculativeTask | None) -> None:
        """Take a workflow task that is in memory only, or (None) give it up."""
        volatile = self.volatile
        before = volatile.speculative
        if task is before:
            return

        def restore() -> None:
            volatile.speculative = before

        self.on_undo(restore)
        volatile.speculative = task
        self.touch_volatile(*(() if task is None else (task,)))

    @property
    def waiting_events(self) -> list[HistoryEvent]:
        """The events that wait for their ids."""
        return [*self.state.buffer, *self._waiting]

    def event(
        self, attributes: Message, *, links: Iterable[Link] = (), user_metadata: UserMetadata | None = None,
        command: Command | None = None, at: int | None = None,
    ) -> HistoryEvent:  # fmt: skip
        """Record an event; its type follows from the attributes. Its id is set on return, unless it is bufferable.

        command: what the worker has added to it for people is added to the event. at: the time it shows, now by default.
        """
        event_type, field = ATTRIBUTES[type(attributes)]
        # Filled field by field: handing messages to the constructor takes twice as long.
        event = HistoryEvent(event_type=event_type)  # pyright: ignore[reportArgumentType]
        time = event.event_time
        time.seconds, time.nanos = divmod(self.now if at is None else at, SECOND)
        body: Message = getattr(event, field)
        body.SetInParent()
        body.MergeFrom(attributes)
        if links:
            event.links.extend(links)
        if command is not None:
            user_metadata = command.user_metadata
            if command.event_group_markers:
                event.event_group_markers.extend(command.event_group_markers)
        if user_metadata is not None and user_metadata.ByteSize():
            event.user_metadata.CopyFrom(user_metadata)
        if event_type in MAY_BE_IGNORED:
            event.worker_may_ignore = True
        if event_type in CLOSE_EVENTS:
            self._take_retention()
            count_close(self, event_type)
        if event_type in NUMBERED_AT_ONCE:
            self._number(event)
            self.append(event)
        else:
            EVENT_APPLIERS[event_type](self.state, event, self.touch)
            self._waiting.append(event)
        return event

    def _take_retention(self) -> None:
        """A run is kept for as long as its namespace says when it closes."""
        retention = self.namespace.retention
        if retention != self.state.retention:
            self.note(notes.RetentionChanged(retention))

    def hold_back(self) -> None:
        """Put what waits into the buffer."""
        for event in self._waiting:
            self.notes.append((self.event_count, notes.EventBuffered(event)))
            self.state.buffer.append(event)
        self._waiting = []

    def flush(self) -> None:
        """Give ids to everything that waits for one. The task must have ended."""
        buffered = self.state.buffer
        waiting = self._waiting
        if not buffered and not waiting:
            return
        if not buffered and len(waiting) == 1:
            self._waiting = []
            self._number(waiting[0])
            self.append(waiting[0], applied=True)
            return
        arrived_before = {id(event) for event in buffered}
        ordered = sorted([*buffered, *waiting], key=lambda event: event.event_type in FLUSHED_LAST)
        self._waiting = []
        started: dict[tuple[int, int], int] = {}
        for position, event in enumerate(ordered):
            self._number(event, self.state.next_event_id + position)
            _wire(event, started)
        for event in ordered:
            if id(event) in arrived_before:
                # Applied when it arrived, in an earlier journal row; reading this row back must not apply it again.
                self.note(notes.BufferFlushed(1))
            self.append(event, applied=True)

    def drop_buffered(self, event_type: EventType.ValueType, **match: Any) -> HistoryEvent | None:
        """Forget a waiting event whose attributes have these values, and return it; None if there is none."""
        field = next(f for t, f in ATTRIBUTES.values() if t == event_type)

        def matches(event: HistoryEvent) -> bool:
            return event.event_type == event_type and all(getattr(getattr(event, field), k) == v for k, v in match.items())

        for event in self._waiting:
            if matches(event):
                self._waiting.remove(event)
                return event
        for index, event in enumerate(self.state.buffer):
            if matches(event):
                self.note(notes.BufferedEventDropped(index))
                return event
        return None

    def _number(self, event: HistoryEvent, event_id: int | None = None) -> None:
        event.event_id = self.state.next_event_id if event_id is None else event_id
        event.task_id = self.state.earlier_task_ids + event.event_id


_STARTED_FIELDS = {
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("activity_task_completed_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("activity_task_failed_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("activity_task_timed_out_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("activity_task_canceled_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: ("child_workflow_execution_completed_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: ("child_workflow_execution_failed_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: ("child_workflow_execution_timed_out_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: ("child_workflow_execution_canceled_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: ("child_workflow_execution_terminated_event_attributes", "initiated_event_id"),
}


def _wire(event: HistoryEvent, started: dict[tuple[int, int], int]) -> None:
    """Results refer to the id of their started event, which may have been buffered with them and got its id only now."""
    if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_STARTED:
        started[0, event.activity_task_started_event_attributes.scheduled_event_id] = event.event_id
    elif event.event_type == E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
        started[1, event.child_workflow_execution_started_event_attributes.initiated_event_id] = event.event_id
    elif event.event_type in _STARTED_FIELDS:
        field, key = _STARTED_FIELDS[event.event_type]
        attributes = getattr(event, field)
        event_id = started.get((int(key == "initiated_event_id"), getattr(attributes, key)))
        if event_id is not None:
            attributes.started_event_id = event_id
