"""E3: the rows of the table that opens ``task/lifecycle.py``, without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import EventType, TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    History,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes,
    WorkflowTaskCompletedEventAttributes,
)
from temporalio.api.taskqueue.v1 import TaskQueue

import perdure.features.workflow.feature  # registers every concern
from perdure.core.clock import SECOND, to_duration
from perdure.core.execution import RunKey
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace, NamespaceRegistry
from perdure.features.workflow import notes
from perdure.features.workflow.kind import WORKFLOW, WorkflowKind
from perdure.features.workflow.state import TaskStatus
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import (
    end_stickiness,
    fail_task,
    schedule_task,
    start_task,
    unwritten_events,
    write_task_events,
)
from perdure.features.workflow.task.timeouts import time_out
from perdure.observability.metrics import Registry
from perdure.observability.server_metrics import ServerMetrics
from perdure.store.opening import create_store

CONCERNS = perdure.features.workflow.feature.CONCERNS
BOOM = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE


@dataclass
class Run:
    """A run in memory, one step after the other."""

    ids: IdSource = field(default_factory=lambda: IdSource(1))
    now: int = 1_000 * SECOND
    history: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.kind = WorkflowKind(Limits(), asyncio.run(self._namespaces()), ServerMetrics(Registry()))
        self.state = self.kind.new_state()
        self.volatile = self.kind.new_volatile()
        step = self.step()
        step.note(notes.RunCreated("w", "r", 0, ""))
        step.event(
            WorkflowExecutionStartedEventAttributes(
                workflow_type=WorkflowType(name="W"), task_queue=TaskQueue(name="queue"), workflow_task_timeout=to_duration(10 * SECOND)
            )
        )
        schedule_task(step)
        self.end(step)

    async def _namespaces(self) -> NamespaceRegistry:
        store = create_store("")
        await store.open()
        namespaces = NamespaceRegistry(store, self.ids)
        await namespaces.create(Namespace(id="n", name="default"))
        await store.close()
        return namespaces

    def step(self) -> WorkflowStep:
        self.now += SECOND
        return self.kind.step(RunKey("n", WORKFLOW, "w", "r"), self.state, self.volatile, self.now, self.ids)

    def end(self, step: WorkflowStep) -> list[str]:
        """The types of the events that the step recorded."""
        step.finish()
        types = [EventType.Name(e.event_type).removeprefix("EVENT_TYPE_") for e in History.FromString(step.events).events]
        self.history += types
        return types

    def start(self) -> list[str]:
        step = self.step()
        start_task(step, "worker", "request")
        return self.end(step)

    def complete(self) -> list[str]:
        step = self.step()
        write_task_events(step, "worker")
        task = step.task
        step.event(WorkflowTaskCompletedEventAttributes(scheduled_event_id=task.scheduled_event_id, started_event_id=task.started_event_id))
        if step.has_waiting_events:
            schedule_task(step)
        return self.end(step)

    def fail(self) -> list[str]:
        step = self.step()
        fail_task(step, BOOM, None, "worker")
        schedule_task(step)
        return self.end(step)

    def signal(self) -> list[str]:
        step = self.step()
        step.event(WorkflowExecutionSignaledEventAttributes(signal_name="s"))
        schedule_task(step)
        return self.end(step)

    def stick(self) -> None:
        step = self.step()
        step.note(notes.StickyChanged("sticky", 5 * SECOND))
        self.end(step)


def test_a_task_is_scheduled_started_and_completed() -> None:
    run = Run()
    assert run.state.task.status == TaskStatus.SCHEDULED
    assert run.start() == ["WORKFLOW_TASK_STARTED"]
    assert run.state.task.status == TaskStatus.STARTED
    assert run.complete() == ["WORKFLOW_TASK_COMPLETED"]
    assert run.state.task.status == TaskStatus.NONE
    assert run.state.task.last_started_event_id == 3


def test_a_signal_during_a_task_waits_for_its_end() -> None:
    run = Run()
    run.start()
    assert run.signal() == []
    assert run.complete() == ["WORKFLOW_TASK_COMPLETED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED"]


def test_a_failure_is_written_once_then_attempts_are_transient() -> None:
    run = Run()
    run.start()
    assert run.fail() == ["WORKFLOW_TASK_FAILED"]
    for attempt in (2, 3, 4):
        task = run.state.task
        assert (task.status, task.attempt) == (TaskStatus.TRANSIENT_SCHEDULED, attempt)
        assert [e.event_id for e in unwritten_events(run.state, run.volatile)] == [5]
        assert run.start() == []
        shown = unwritten_events(run.state, run.volatile)
        assert [e.event_id for e in shown] == [5, 6]
        assert shown[1].workflow_task_started_event_attributes.identity == ""
        assert run.fail() == []
    run.start()
    assert run.complete() == ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED"]
    assert run.state.task.attempt == 1
    assert unwritten_events(run.state, run.volatile) == []


def test_the_timeout_grows_from_the_fourth_attempt_on() -> None:
    run = Run()
    timeouts: list[int] = []
    for _ in range(9):
        run.start()
        run.fail()
        timeouts.append(run.state.task.start_to_close_timeout)
    assert timeouts[:2] == [10 * SECOND] * 2
    for attempt, timeout in enumerate(timeouts[2:], 4):
        delay = min(5 * 2 ** (attempt - 4), 600) * SECOND
        assert 10 * SECOND + 0.8 * delay <= timeout <= 10 * SECOND + delay


def test_news_between_attempts_makes_a_new_first_attempt() -> None:
    run = Run()
    run.start()
    run.fail()
    # The transient task stays scheduled; when it starts, it is no retry of the same thing any more.
    assert run.signal() == ["WORKFLOW_EXECUTION_SIGNALED"]
    assert run.start() == ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]
    assert run.state.task.attempt == 1
    assert run.state.task.status == TaskStatus.STARTED


def test_a_buffered_signal_makes_the_retry_a_first_attempt() -> None:
    run = Run()
    run.start()
    run.signal()
    assert run.fail() == ["WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED"]
    assert run.state.task.attempt == 1


def test_a_start_to_close_timeout_counts_as_an_attempt() -> None:
    run = Run()
    run.start()
    step = run.step()
    time_out(step, started=True)
    assert run.end(step) == ["WORKFLOW_TASK_TIMED_OUT"]
    assert run.state.task.attempt == 2


def test_a_sticky_task_that_nobody_takes_goes_to_the_normal_queue() -> None:
    run = Run()
    run.start()
    run.stick()
    run.complete()
    assert run.signal() == ["WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED"]
    assert run.state.task.schedule_to_start_deadline == run.now + 5 * SECOND
    step = run.step()
    time_out(step, started=False)
    assert run.end(step) == ["WORKFLOW_TASK_TIMED_OUT", "WORKFLOW_TASK_SCHEDULED"]
    assert (run.state.sticky_queue, run.state.task.sticky, run.state.task.attempt) == ("", False, 1)


def test_a_failure_on_the_sticky_queue_does_not_count() -> None:
    run = Run()
    run.start()
    run.stick()
    assert run.fail() == ["WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]
    assert run.state.task.attempt == 1
    assert run.state.sticky_queue == ""


def test_ending_stickiness_moves_a_waiting_task() -> None:
    run = Run()
    run.start()
    run.stick()
    run.complete()
    run.signal()
    assert run.state.task.sticky
    step = run.step()
    end_stickiness(step)
    assert run.end(step) == []
    assert not run.state.task.sticky
    assert run.state.task in step.touched.values()
    assert run.state.task.schedule_to_start_deadline == run.state.task.scheduled_at + 5 * SECOND


def test_scheduling_again_changes_nothing() -> None:
    run = Run()
    step = run.step()
    schedule_task(step)
    assert run.end(step) == []
    assert not step.has_records


def test_the_queue_is_shown_as_it_was_when_the_task_was_scheduled() -> None:
    run = Run()
    run.start()
    run.stick()
    run.complete()
    step = run.step()
    step.event(WorkflowExecutionSignaledEventAttributes(signal_name="s"))
    schedule_task(step)
    step.finish()
    queue = History.FromString(step.events).events[-1].workflow_task_scheduled_event_attributes.task_queue
    assert (queue.name, queue.kind, queue.normal_name) == ("sticky", TaskQueueKind.TASK_QUEUE_KIND_STICKY, "queue")
