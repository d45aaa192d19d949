"""The workflow task: scheduled, started, completed, failed, timed out.

| from                  | intent            | to                    | record                                                    |
|-----------------------|-------------------|-----------------------|-----------------------------------------------------------|
| NONE                  | schedule          | SCHEDULED             | WORKFLOW_TASK_SCHEDULED                                   |
| NONE, attempt > 1     | schedule          | TRANSIENT_SCHEDULED   | note: nothing new happened since the failure              |
| NONE                  | schedule          | SPECULATIVE_SCHEDULED | nothing (memory only)                                     |
| SCHEDULED             | start             | STARTED               | WORKFLOW_TASK_STARTED                                     |
| TRANSIENT_SCHEDULED   | start             | TRANSIENT_STARTED     | note                                                      |
| TRANSIENT_SCHEDULED   | start, new events | STARTED               | SCHEDULED (attempt 1), STARTED                            |
| STARTED               | complete          | NONE                  | WORKFLOW_TASK_COMPLETED                                   |
| TRANSIENT_STARTED     | complete          | NONE                  | SCHEDULED, STARTED, COMPLETED                             |
| STARTED               | fail, time out    | NONE, attempt + 1     | WORKFLOW_TASK_FAILED, WORKFLOW_TASK_TIMED_OUT             |
| TRANSIENT_STARTED     | fail, time out    | NONE, attempt + 1     | note                                                      |
| SCHEDULED on sticky   | time out          | NONE                  | WORKFLOW_TASK_TIMED_OUT; the sticky queue is given up     |

What becomes of a task whose worker had gone before it got it: see ``taking_back.py``.

A failure or timeout of a task that came from the sticky queue gives that queue up first and does not count as an attempt.
"""

from __future__ import annotations

from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, SuggestContinueAsNewReason, TaskQueueKind, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowTaskFailedEventAttributes,
    WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes,
)
from temporalio.api.taskqueue.v1 import TaskQueue

from perdure.core.clock import SECOND, duration_ns, timestamp_ns, to_duration, to_timestamp
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow import notes
from perdure.features.workflow.jobs import FirstTaskDue
from perdure.features.workflow.registry import EVENT_APPLIERS, applies, applies_note
from perdure.features.workflow.state import TaskStatus, WorkflowState, WorkflowTask, WorkflowVolatile
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.failure_series import count_failure, count_timeout, end_series
from perdure.features.workflow.task.reported_problems import report_problems
from perdure.features.workflow.update.counts import too_many
from perdure.features.workflow.update.metrics import count_speculative

BACKOFF_INITIAL = 5 * SECOND
"""By so much the timeout of a task that keeps failing grows first."""

RESETS_ATTEMPT = (
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED,
)

CLOSE_REFUSED = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
"""The worker wanted to end the run, but something had come in that it had not seen. While it tries again, no more is let in."""


# -- scheduling ------------------------------------------------------------------------------------------
def schedule_task(step: WorkflowStep, *, original_scheduled_at: int = 0) -> None:
    """Schedule a workflow task unless there is one already, or the run still waits for its first.

    original_scheduled_at: of the first task of a heartbeat, 0 for a task of its own.
    """
    state = step.state
    if step.task.is_pending or state.first_task_pending or state.is_paused or not state.is_open:
        return
    if step.holds_task:
        step.wants_task = True
        return
    is_new = step.has_waiting_events
    step.flush()
    task = state.task
    attempt = 1 if is_new else task.attempt
    timeout = _start_to_close_timeout(step, attempt)
    if attempt > 1:
        step.note(notes.TransientTaskScheduled(state.next_event_id, step.now, timeout))
    else:
        step.event(
            WorkflowTaskScheduledEventAttributes(
                task_queue=current_queue(state), start_to_close_timeout=to_duration(timeout), attempt=attempt
            )
        )
    if original_scheduled_at:
        step.note(notes.TaskHeartbeat(original_scheduled_at))


def current_queue(state: WorkflowState) -> TaskQueue:
    """The queue the next workflow task goes to, as history shows it."""
    if state.sticky_queue:
        return TaskQueue(name=state.sticky_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=state.task_queue)
    return TaskQueue(name=state.task_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL)


def _start_to_close_timeout(step: WorkflowStep, attempt: int) -> int:
    """SDKs do not answer a task that keeps failing, so its timeout is the pause before the next attempt: it grows."""
    timeout = duration_ns(step.state.started.workflow_task_timeout)
    alike = attempt - step.limits.workflow_task_failing_attempt
    if alike <= 0:
        return timeout
    delay = min(BACKOFF_INITIAL * 2 ** min(alike - 1, 16), step.limits.workflow_task_retry_max_interval_ns)
    return timeout + int(delay * step.ids.random.uniform(0.8, 1.0))


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
def _scheduled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_scheduled_event_attributes
    task = state.task
    task.status = TaskStatus.SCHEDULED
    task.scheduled_event_id = event.event_id
    task.scheduled_at = task.original_scheduled_at = timestamp_ns(event.event_time)
    task.start_to_close_timeout = duration_ns(attributes.start_to_close_timeout)
    task.attempt = attributes.attempt
    task.sticky = attributes.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
    task.schedule_to_start_deadline = task.scheduled_at + state.sticky_timeout if task.sticky and state.sticky_timeout else 0
    touch(task)


@applies_note(notes.TransientTaskScheduled)
def _transient_scheduled(state: WorkflowState, note: notes.TransientTaskScheduled, touch: Touch) -> None:
    task = state.task
    task.status = TaskStatus.TRANSIENT_SCHEDULED
    task.scheduled_event_id = note.scheduled_event_id
    task.scheduled_at = task.original_scheduled_at = note.at
    task.start_to_close_timeout = note.start_to_close_timeout
    task.sticky = False
    task.schedule_to_start_deadline = 0
    touch(task)


@applies_note(notes.TaskHeartbeat)
def _heartbeat(state: WorkflowState, note: notes.TaskHeartbeat, touch: Touch) -> None:
    state.task.original_scheduled_at = note.original_scheduled_at


@decides(FirstTaskDue)
def first_task_due(step: WorkflowStep, job: FirstTaskDue) -> None:
    end_first_backoff(step)
    schedule_task(step)


def end_first_backoff(step: WorkflowStep) -> None:
    """The run need not wait for its first task any longer."""
    if step.state.first_task_pending:
        step.note(notes.FirstTaskReleased())


@applies_note(notes.FirstTaskReleased)
def _first_task_released(state: WorkflowState, note: notes.FirstTaskReleased, touch: Touch) -> None:
    state.first_task_pending = False
    touch(state)


# -- starting ----------------------------------------------------------------------------------------------
def start_task(step: WorkflowStep, identity: str, request_id: str, worker_version: WorkerVersionStamp | None = None) -> None:
    """Hand the scheduled task to a worker. The caller has checked that it is the one the worker was promised."""
    state = step.state
    task = step.task
    if not task.is_written and task.scheduled_event_id != state.next_event_id:
        # Something happened since: this is no retry of the same thing any more.
        step.event(
            WorkflowTaskScheduledEventAttributes(
                task_queue=current_queue(state), start_to_close_timeout=to_duration(task.start_to_close_timeout), attempt=1
            )
        )
        task = state.task
    reasons = suggest_continue_as_new(step)
    if task.status == TaskStatus.SCHEDULED:
        step.event(
            WorkflowTaskStartedEventAttributes(
                scheduled_event_id=task.scheduled_event_id, identity=identity, request_id=request_id, history_size_bytes=step.history_size,
                suggest_continue_as_new=bool(reasons), suggest_continue_as_new_reasons=reasons, worker_version=worker_version,
            )
        )  # fmt: skip
    elif task.status == TaskStatus.TRANSIENT_SCHEDULED:
        step.note(notes.TransientTaskStarted(step.now, request_id, identity, step.history_size, [int(r) for r in reasons], worker_version))
    else:
        # Tokens tell a discarded task and the next one, which has the same event ids, apart by this time.
        at = step.volatile.last_started_at = max(step.now, step.volatile.last_started_at + 1)
        _start(task, TaskStatus.SPECULATIVE_STARTED, at, request_id, identity, step.history_size, [int(r) for r in reasons])
        step.touch_volatile(task)
        task.worker_version = worker_version


def suggest_continue_as_new(step: WorkflowStep) -> list[SuggestContinueAsNewReason.ValueType]:
    """Why the worker should continue as new soon; empty when it need not."""
    reasons: list[SuggestContinueAsNewReason.ValueType] = []
    if step.state.history_size >= step.limits.history_size_suggest_continue_as_new_bytes:
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE)
    if step.state.next_event_id - 1 >= step.limits.history_count_suggest_continue_as_new:
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS)
    if too_many(step):
        reasons.append(SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES)
    return reasons


def _start(task: WorkflowTask, status: TaskStatus, at: int, request_id: str, identity: str, history_size: int, reasons: list[int]) -> None:
    task.status = status
    task.started_event_id = task.scheduled_event_id + 1
    task.started_at = at
    task.request_id = request_id
    task.identity = identity
    task.history_size_bytes = history_size
    task.suggest_reasons = reasons


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
def _started(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_started_event_attributes
    task = state.task
    reasons = [int(r) for r in attributes.suggest_continue_as_new_reasons]
    at = timestamp_ns(event.event_time)
    _start(task, TaskStatus.STARTED, at, attributes.request_id, attributes.identity, attributes.history_size_bytes, reasons)
    task.started_event_id = event.event_id
    task.worker_version = attributes.worker_version if attributes.HasField("worker_version") else None
    touch(task)


@applies_note(notes.TransientTaskStarted)
def _transient_started(state: WorkflowState, note: notes.TransientTaskStarted, touch: Touch) -> None:
    _start(state.task, TaskStatus.TRANSIENT_STARTED, note.at, note.request_id, note.identity, note.history_size_bytes, note.suggest_reasons)
    state.task.worker_version = note.worker_version
    touch(state.task)


# -- ending --------------------------------------------------------------------------------------------------
def write_task_events(step: WorkflowStep, identity: str = "", worker_version: WorkerVersionStamp | None = None) -> None:
    """Write the events that a transient or speculative task has had so far, because what follows refers to them.

    identity, worker_version: of the worker, as the started event shows them ("", None: not known to whoever writes it).
    """
    task = step.task
    if task.is_written:
        return
    if step.volatile.speculative is not None:
        step.set_speculative(None)
        end_first_backoff(step)
    scheduled, started = task_events(step.state, task)
    is_started = task.is_started  # a transient task is the very one that the next event changes
    step.event(scheduled.workflow_task_scheduled_event_attributes, at=task.scheduled_at)
    if not is_started:
        return
    attributes = started.workflow_task_started_event_attributes
    attributes.identity = identity
    attributes.ClearField("worker_version")
    if worker_version is not None:
        attributes.worker_version.CopyFrom(worker_version)
    attributes.scheduled_event_id = step.state.task.scheduled_event_id
    step.event(attributes, at=task.started_at)


def make_normal(step: WorkflowStep) -> None:
    """Write the speculative task, because something else has happened."""
    task = step.task
    count_speculative(step, "close_transaction")
    write_task_events(step)
    if not task.is_started:
        step.note(notes.TaskMadeNormal(task.schedule_to_start_deadline))


@applies_note(notes.TaskMadeNormal)
def _made_normal(state: WorkflowState, note: notes.TaskMadeNormal, touch: Touch) -> None:
    state.task.schedule_to_start_deadline = note.deadline
    touch(state.task)


def task_events(state: WorkflowState, task: WorkflowTask) -> tuple[HistoryEvent, HistoryEvent]:
    """The scheduled and started events that a transient or speculative task would have.

    Workers are shown them behind the written history. Of the worker's version they show only what decides which worker gets the task.
    """
    version = task.worker_version if task.worker_version is not None and task.worker_version.use_versioning else None
    scheduled = HistoryEvent(
        event_id=task.scheduled_event_id, event_time=to_timestamp(task.scheduled_at),
        event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        workflow_task_scheduled_event_attributes=WorkflowTaskScheduledEventAttributes(
            task_queue=current_queue(state), start_to_close_timeout=to_duration(task.start_to_close_timeout), attempt=task.attempt),
    )  # fmt: skip
    started = HistoryEvent(
        event_id=task.started_event_id, event_time=to_timestamp(task.started_at), event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        workflow_task_started_event_attributes=WorkflowTaskStartedEventAttributes(
            scheduled_event_id=task.scheduled_event_id, identity=task.identity, request_id=task.request_id,
            history_size_bytes=task.history_size_bytes, suggest_continue_as_new=bool(task.suggest_reasons),
            suggest_continue_as_new_reasons=task.suggest_reasons, worker_version=version),  # pyright: ignore
    )  # fmt: skip
    return scheduled, started


def unwritten_events(state: WorkflowState, volatile: WorkflowVolatile) -> list[HistoryEvent]:
    """The events that readers see behind the written history: those of a transient or speculative task, without its worker."""
    task = volatile.speculative or state.task
    if not state.is_open or not task.is_pending or task.is_written or task.scheduled_event_id != state.next_event_id:
        return []
    scheduled, started = task_events(state, task)
    started.workflow_task_started_event_attributes.identity = ""
    return [scheduled, started] if task.is_started else [scheduled]


def fail_task(
    step: WorkflowStep, cause: WorkflowTaskFailedCause.ValueType, failure: Failure | None, identity: str, *,
    worker_version: WorkerVersionStamp | None = None, binary_checksum: str = "", base_run_id: str = "", new_run_id: str = "",
) -> None:  # fmt: skip
    """End the started task as failed. What follows (a retry, a close) is the caller's. worker_version: of the worker that says so."""
    if step.task.status == TaskStatus.SPECULATIVE_STARTED:
        write_task_events(step, identity, worker_version)
    task = step.state.task
    if task.status == TaskStatus.TRANSIENT_STARTED:
        step.note(notes.TransientTaskFailed(int(cause), failure))
        return
    step.event(
        WorkflowTaskFailedEventAttributes(
            scheduled_event_id=task.scheduled_event_id, started_event_id=task.started_event_id, cause=cause, failure=failure,
            identity=identity, binary_checksum=binary_checksum, base_run_id=base_run_id, new_run_id=new_run_id,
        )
    )  # fmt: skip


def _end(state: WorkflowState, touch: Touch, *, counts: bool) -> None:
    task = state.task
    if state.sticky_queue:
        state.sticky_queue = ""
        state.sticky_timeout = 0
        counts = False
    if counts:
        task.attempt += 1
        task.problems += 1
    state.close_attempted = False
    _clear(task)
    touch(task)


def _clear(task: WorkflowTask) -> None:
    task.status = TaskStatus.NONE
    task.scheduled_event_id = task.started_event_id = 0
    task.scheduled_at = task.original_scheduled_at = task.started_at = 0
    task.schedule_to_start_deadline = task.start_to_close_timeout = 0
    task.sticky = task.taken_back = False
    task.request_id = task.identity = ""
    task.worker_version = None


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
def _failed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_failed_event_attributes
    _end(state, touch, counts=attributes.cause not in RESETS_ATTEMPT)
    if attributes.cause in RESETS_ATTEMPT:
        state.task.attempt = 1
    else:
        count_failure(state.task, attributes.cause, attributes.failure if attributes.HasField("failure") else None, in_history=True)
    state.close_attempted = attributes.cause == CLOSE_REFUSED


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
def _timed_out(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    timeout_type = event.workflow_task_timed_out_event_attributes.timeout_type
    is_problem = timeout_type != TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START and not state.task.taken_back
    _end(state, touch, counts=is_problem)
    if is_problem:
        count_timeout(state.task, in_history=True)


@applies_note(notes.TransientTaskTimedOut)
def _transient_timed_out(state: WorkflowState, note: notes.TransientTaskTimedOut, touch: Touch) -> None:
    _end(state, touch, counts=True)
    count_timeout(state.task, in_history=False)


@applies_note(notes.TransientTaskFailed)
def _transient_failed(state: WorkflowState, note: notes.TransientTaskFailed, touch: Touch) -> None:
    _end(state, touch, counts=note.cause not in RESETS_ATTEMPT)
    if note.cause in RESETS_ATTEMPT:
        state.task.attempt = 1
    else:
        count_failure(state.task, note.cause, note.failure, in_history=False)
    state.close_attempted = note.cause == CLOSE_REFUSED


@applies(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
def _completed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_completed_event_attributes
    task = state.task
    _clear(task)
    task.attempt = 1
    task.last_started_event_id = attributes.started_event_id
    end_series(task)
    if state.reported_problems:
        report_problems(state, [])
    state.close_attempted = False
    state.last_completed_identity = attributes.identity
    touch(task)


@applies_note(notes.StickyChanged)
def _sticky_changed(state: WorkflowState, note: notes.StickyChanged, touch: Touch) -> None:
    state.sticky_queue = note.queue
    state.sticky_timeout = note.timeout
    if state.task.is_scheduled:
        # It waits in the queue of before, which may have nobody left: it goes to the other queue too.
        # A deadline of before stays: the task times out there if nobody takes it here.
        state.task.sticky = bool(note.queue)
        touch(state.task)


def end_stickiness(step: WorkflowStep) -> None:
    """The next task goes to the normal queue."""
    if step.state.sticky_queue:
        step.note(notes.StickyChanged("", 0))


# -- buffered events -------------------------------------------------------------------------------------------
@applies_note(notes.EventBuffered)
def _buffered(state: WorkflowState, note: notes.EventBuffered, touch: Touch) -> None:
    EVENT_APPLIERS[note.event.event_type](state, note.event, touch)
    state.buffer.append(note.event)


@applies_note(notes.BufferFlushed)
def _flushed(state: WorkflowState, note: notes.BufferFlushed, touch: Touch) -> None:
    # The buffer empties as a whole, at the end of a task; only the numbering of its events is spread over the row.
    state.buffer = []
    state.numbering = note.count


@applies_note(notes.BufferedEventDropped)
def _unbuffered(state: WorkflowState, note: notes.BufferedEventDropped, touch: Touch) -> None:
    del state.buffer[note.index]
