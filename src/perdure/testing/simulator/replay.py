"""What a worker makes of a history: where the model workflow stands, and its next commands. The same history always gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from temporalio.api.command.v1 import (
    CancelTimerCommandAttributes,
    CancelWorkflowExecutionCommandAttributes,
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    FailWorkflowExecutionCommandAttributes,
    RequestCancelActivityTaskCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
)
from temporalio.api.common.v1 import ActivityType, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Request

from perdure.core.clock import MILLISECOND, to_duration
from perdure.testing.simulator.programs import CHILD, Operation, Program, Stage, payloads, value_of

NAMESPACE = "default"
WORKFLOW_QUEUE = "queue"
ACTIVITY_QUEUE = "work"
WORKFLOW_TYPE = "Model"
ACTIVITY_TYPE = "Work"

E = EventType
C = CommandType

ENDS: dict[int, tuple[str, str]] = {
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("activity_task_completed_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("activity_task_failed_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("activity_task_timed_out_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("activity_task_canceled_event_attributes", "scheduled_event_id"),
    E.EVENT_TYPE_TIMER_FIRED: ("timer_fired_event_attributes", "started_event_id"),
    E.EVENT_TYPE_TIMER_CANCELED: ("timer_canceled_event_attributes", "started_event_id"),
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: ("start_child_workflow_execution_failed_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: ("child_workflow_execution_completed_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: ("child_workflow_execution_failed_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: ("child_workflow_execution_canceled_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: ("child_workflow_execution_terminated_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: ("child_workflow_execution_timed_out_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: ("external_workflow_execution_signaled_event_attributes", "initiated_event_id"),
    E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: (
        "signal_external_workflow_execution_failed_event_attributes",
        "initiated_event_id",
    ),
}
"""Event types that end an operation → their attributes, and the field with the id of the event that began it."""


def ended_by(event: HistoryEvent) -> int | None:
    """The id of the event that began what this event ends; None when it ends nothing."""
    found = ENDS.get(event.event_type)
    return getattr(getattr(event, found[0]), found[1]) if found is not None else None


def admitted_request(event: HistoryEvent) -> Request:
    """The update that came over with a reset."""
    return event.workflow_execution_update_admitted_event_attributes.request


@dataclass(slots=True)
class Begun:
    """What history says of an operation. ended: the event type that ended it, 0 while it goes on."""

    event_id: int
    ended: int = 0
    cancel_requested: bool = False


@dataclass(slots=True)
class Replay:
    """What a worker knows of a run from its history."""

    program: Program = field(default_factory=lambda: Program("", []))
    begun: dict[str, Begun] = field(default_factory=dict[str, Begun])
    signals: list[str] = field(default_factory=list[str])
    cancel_requested: bool = False
    #: Update id → the request, of updates that are accepted and not completed.
    updates: dict[str, Request] = field(default_factory=dict[str, Request])
    #: The events by which updates came over from the run that this one was reset from, as long as nobody has accepted them here.
    admitted: dict[str, HistoryEvent] = field(default_factory=dict[str, HistoryEvent])
    _by_event: dict[int, str] = field(default_factory=dict[int, str])

    def feed(self, events: Sequence[HistoryEvent]) -> None:
        """Take note of more events, in order."""
        for event in events:
            self._feed(event)

    def _feed(self, event: HistoryEvent) -> None:
        match event.event_type:
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                self.program = value_of(event.workflow_execution_started_event_attributes.input, Program)
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                self.signals.append(value_of(event.workflow_execution_signaled_event_attributes.input))
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                self.cancel_requested = True
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                accepted = event.workflow_execution_update_accepted_event_attributes
                update_id = accepted.protocol_instance_id
                admitted = self.admitted.pop(update_id, None)
                self.updates[update_id] = accepted.accepted_request if admitted is None else admitted_request(admitted)
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
                self.admitted[admitted_request(event).meta.update_id] = event
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                del self.updates[event.workflow_execution_update_completed_event_attributes.meta.update_id]
            case E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                self._begin(event.activity_task_scheduled_event_attributes.activity_id, event)
            case E.EVENT_TYPE_TIMER_STARTED:
                self._begin(event.timer_started_event_attributes.timer_id, event)
            case E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
                self._begin(event.start_child_workflow_execution_initiated_event_attributes.control, event)
            case E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                self._begin(event.signal_external_workflow_execution_initiated_event_attributes.control, event)
            case E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
                scheduled = event.activity_task_cancel_requested_event_attributes.scheduled_event_id
                self.begun[self._by_event[scheduled]].cancel_requested = True
            case E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                control = event.request_cancel_external_workflow_execution_initiated_event_attributes.control
                self.begun[control].cancel_requested = True
            case _:
                if (event_id := ended_by(event)) is not None:
                    self.begun[self._by_event[event_id]].ended = event.event_type

    def _begin(self, name: str, event: HistoryEvent) -> None:
        self.begun[name] = Begun(event.event_id)
        self._by_event[event.event_id] = name

    # -- what to do next ------------------------------------------------------------------------------
    def commands(self) -> list[Command]:
        """The commands that follow from what is known; empty when the workflow has to wait."""
        commands: list[Command] = []
        if self.cancel_requested and self.program.on_cancel == "obey":
            for name, begun in self.begun.items():
                self._cancel(commands, name, begun)
            attributes = CancelWorkflowExecutionCommandAttributes()
            commands.append(
                Command(command_type=C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION, cancel_workflow_execution_command_attributes=attributes)
            )
            return commands
        for number, stage in enumerate(self.program.stages):
            if not self._pass(commands, number, stage):
                return commands
        commands.append(self._end())
        return commands

    def _pass(self, commands: list[Command], number: int, stage: Stage) -> bool:
        """Issue what the stage lacks; whether it is over."""
        names = [f"{number}.{index}" for index in range(len(stage.operations))]
        if not any(name in self.begun for name in names):
            commands.extend(begin_command(name, operation) for name, operation in zip(names, stage.operations, strict=True))
            return False
        ended = [name for name in names if self.begun[name].ended]
        if len(ended) < (len(names) if stage.wait == "all" else 1) or len(self.signals) < stage.signals:
            return False
        for name in names:
            self._cancel(commands, name, self.begun[name])
        return True

    def _cancel(self, commands: list[Command], name: str, begun: Begun) -> None:
        if begun.ended or begun.cancel_requested:
            return
        operation = self._operation(name)
        if operation.kind == "timer":
            timer = CancelTimerCommandAttributes(timer_id=name)
            commands.append(Command(command_type=C.COMMAND_TYPE_CANCEL_TIMER, cancel_timer_command_attributes=timer))
        elif operation.kind == "activity":
            activity = RequestCancelActivityTaskCommandAttributes(scheduled_event_id=begun.event_id)
            commands.append(
                Command(command_type=C.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK, request_cancel_activity_task_command_attributes=activity)
            )
        elif operation.child is not None:
            child = RequestCancelExternalWorkflowExecutionCommandAttributes(
                namespace=NAMESPACE, workflow_id=CHILD + operation.child.token, child_workflow_only=True, control=name
            )
            commands.append(
                Command(
                    command_type=C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
                    request_cancel_external_workflow_execution_command_attributes=child,
                )
            )

    def _operation(self, name: str) -> Operation:
        stage, _, index = name.partition(".")
        return self.program.stages[int(stage)].operations[int(index)]

    def _end(self) -> Command:
        program = self.program
        if program.end == "fail":
            failure = Failure(message="as planned", application_failure_info=ApplicationFailureInfo(type="Planned"))
            return Command(
                command_type=C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
                fail_workflow_execution_command_attributes=FailWorkflowExecutionCommandAttributes(failure=failure),
            )
        if program.successor is not None:
            successor = ContinueAsNewWorkflowExecutionCommandAttributes(
                workflow_type=WorkflowType(name=WORKFLOW_TYPE), task_queue=TaskQueue(name=WORKFLOW_QUEUE), input=payloads(program.successor)
            )
            return Command(
                command_type=C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
                continue_as_new_workflow_execution_command_attributes=successor,
            )
        result = CompleteWorkflowExecutionCommandAttributes(result=payloads({"start": program.token, "signals": self.signals}))
        return Command(command_type=C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, complete_workflow_execution_command_attributes=result)


def begin_command(name: str, operation: Operation) -> Command:
    """The command that begins an operation under a name."""
    if operation.kind == "timer":
        timer = StartTimerCommandAttributes(timer_id=name, start_to_fire_timeout=to_duration(operation.milliseconds * MILLISECOND))
        return Command(command_type=C.COMMAND_TYPE_START_TIMER, start_timer_command_attributes=timer)
    if operation.child is not None:
        child = StartChildWorkflowExecutionCommandAttributes(
            namespace=NAMESPACE, workflow_id=CHILD + operation.child.token, workflow_type=WorkflowType(name=WORKFLOW_TYPE),
            task_queue=TaskQueue(name=WORKFLOW_QUEUE), input=payloads(operation.child), control=name,
            parent_close_policy=operation.parent_close,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        return Command(command_type=C.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, start_child_workflow_execution_command_attributes=child)
    if operation.kind == "signal":
        signal = SignalExternalWorkflowExecutionCommandAttributes(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=operation.target), signal_name="note",
            input=payloads(operation.token), control=name,
        )  # fmt: skip
        return Command(
            command_type=C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, signal_external_workflow_execution_command_attributes=signal
        )
    activity = ScheduleActivityTaskCommandAttributes(
        activity_id=name, activity_type=ActivityType(name=ACTIVITY_TYPE), task_queue=TaskQueue(name=ACTIVITY_QUEUE),
        input=payloads(operation),
        retry_policy=RetryPolicy(
            maximum_attempts=operation.attempts, initial_interval=to_duration(operation.retry_interval * MILLISECOND)
        ),
    )  # fmt: skip
    for timeout in ("start_to_close", "schedule_to_close", "schedule_to_start", "heartbeat"):
        if milliseconds := getattr(operation, timeout):
            getattr(activity, f"{timeout}_timeout").CopyFrom(to_duration(milliseconds * MILLISECOND))
    return Command(command_type=C.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, schedule_activity_task_command_attributes=activity)
