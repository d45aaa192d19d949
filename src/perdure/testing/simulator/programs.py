"""Model workflows: what a workflow does is data, and a worker works out its next commands from that and from its history, as an SDK does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent

from perdure.core.clock import MILLISECOND, to_duration

E = EventType
C = CommandType


class Operation(msgspec.Struct, kw_only=True):
    """One thing a workflow waits for. kind: "activity" or "timer". Times are milliseconds, 0 for none.

    attempts: at most so many, 0 for any number. failing: how often an attempt fails, 0 to 1. works: how long an attempt takes. beats: it heartbeats.
    """

    kind: str
    milliseconds: int = 0
    attempts: int = 0
    failing: float = 0.0
    works: int = 0
    beats: bool = False
    start_to_close: int = 0
    schedule_to_close: int = 0
    schedule_to_start: int = 0
    heartbeat: int = 0
    retry_interval: int = 1000


class Stage(msgspec.Struct):
    """Operations started together. wait: "all" of them, or "any", then the others are canceled. signals: so many must have come as well."""

    operations: list[Operation]
    wait: str = "all"
    signals: int = 0


class Program(msgspec.Struct):
    """A workflow. token: of the start that brought it. end: "complete" or "fail". on_cancel: "obey", or "finish" as if nothing had been asked."""

    token: str
    stages: list[Stage]
    end: str = "complete"
    on_cancel: str = "obey"


_ENCODER = msgspec.json.Encoder()


def payloads(value: Any) -> Payloads:
    """A value as the SDKs' JSON payload."""
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=_ENCODER.encode(value))])


def value_of(data: Payloads, expected: type[Any] = object) -> Any:
    """The first payload's value."""
    return msgspec.json.decode(data.payloads[0].data, type=expected) if data.payloads else None


def random_program(rng: random.Random, token: str) -> Program:
    """Any workflow that ends once workers behave."""
    stages: list[Stage] = []
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))):
        operations = [_random_operation(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5)))]
        stages.append(Stage(operations, wait=rng.choice(("all", "all", "any")), signals=rng.choice((0, 0, 0, 0, 1))))
    return Program(token, stages, end="fail" if rng.random() < 0.1 else "complete", on_cancel=rng.choice(("obey", "obey", "finish")))


def _random_operation(rng: random.Random) -> Operation:
    if rng.random() < 0.35:
        # Often equal, so that several things happen in the same instant.
        return Operation(kind="timer", milliseconds=rng.choice((1, 10, 1000, 1000, 2000, 5000, 5000, 20_000, 90_000, 600_000)))
    operation = Operation(
        kind="activity", attempts=rng.choice((0, 0, 1, 1, 2, 3)), failing=rng.choice((0.0, 0.0, 0.3, 0.6)),
        works=rng.choice((0, 0, 10, 500, 3000)), beats=rng.random() < 0.3, start_to_close=rng.choice((2000, 5000, 10_000, 60_000)),
        retry_interval=rng.choice((10, 1000, 1000, 5000)),
    )  # fmt: skip
    if operation.beats:
        operation.heartbeat = rng.choice((500, 1000, 5000))
    if rng.random() < 0.2:
        operation.schedule_to_close = rng.choice((3000, 15_000, 60_000))
    if rng.random() < 0.15:
        operation.schedule_to_start = rng.choice((1000, 5000, 30_000))
    return operation


@dataclass(slots=True)
class _Pending:
    """What history says of an activity (by its id) or a timer. ended: the event type that ended it."""

    event_id: int
    ended: int = 0
    cancel_requested: bool = False


@dataclass(slots=True)
class Replay:
    """What a worker knows of a run from its history."""

    program: Program = field(default_factory=lambda: Program("", []))
    pending: dict[str, _Pending] = field(default_factory=dict[str, _Pending])
    signals: list[str] = field(default_factory=list[str])
    cancel_requested: bool = False
    _by_event: dict[int, str] = field(default_factory=dict[int, str])

    def feed(self, events: Sequence[HistoryEvent]) -> None:
        """Take note of more events, in order."""
        for event in events:
            self._feed(event)

    def _feed(self, event: HistoryEvent) -> None:
        kind = event.event_type
        if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            self.program = value_of(event.workflow_execution_started_event_attributes.input, Program)
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            self.signals.append(value_of(event.workflow_execution_signaled_event_attributes.input))
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            self.cancel_requested = True
        elif kind == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            self._begin(event.activity_task_scheduled_event_attributes.activity_id, event.event_id)
        elif kind == E.EVENT_TYPE_TIMER_STARTED:
            self._begin(event.timer_started_event_attributes.timer_id, event.event_id)
        elif kind == E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
            self.pending[self._by_event[event.activity_task_cancel_requested_event_attributes.scheduled_event_id]].cancel_requested = True
        elif (begun := ended_by(event)) is not None:
            self.pending[self._by_event[begun]].ended = kind

    def _begin(self, name: str, event_id: int) -> None:
        self.pending[name] = _Pending(event_id)
        self._by_event[event_id] = name

    # -- what to do next ------------------------------------------------------------------------------
    def commands(self) -> list[Command]:
        """The commands that follow from what is known; empty when the workflow has to wait."""
        commands: list[Command] = []
        if self.cancel_requested and self.program.on_cancel == "obey":
            for name, pending in self.pending.items():
                self._cancel(commands, name, pending)
            commands.append(Command(command_type=C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION, cancel_workflow_execution_command_attributes={}))
            return commands
        for number, stage in enumerate(self.program.stages):
            if not self._pass(commands, number, stage):
                return commands
        commands.append(self._end())
        return commands

    def _pass(self, commands: list[Command], number: int, stage: Stage) -> bool:
        """Issue what the stage lacks; whether it is over."""
        names = [f"{number}.{index}" for index in range(len(stage.operations))]
        issued = [name for name in names if name in self.pending]
        if not issued:
            commands.extend(_begin_command(name, operation) for name, operation in zip(names, stage.operations, strict=True))
            return False
        ended = [name for name in names if self.pending[name].ended]
        if len(ended) < (len(names) if stage.wait == "all" else 1) or len(self.signals) < stage.signals:
            return False
        for name in names:
            self._cancel(commands, name, self.pending[name])
        return True

    def _cancel(self, commands: list[Command], name: str, pending: _Pending) -> None:
        if pending.ended or pending.cancel_requested:
            return
        if self._operation(name).kind == "timer":
            attributes = {"timer_id": name}
            commands.append(Command(command_type=C.COMMAND_TYPE_CANCEL_TIMER, cancel_timer_command_attributes=attributes))
            return
        commands.append(
            Command(
                command_type=C.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
                request_cancel_activity_task_command_attributes={"scheduled_event_id": pending.event_id},
            )
        )

    def _operation(self, name: str) -> Operation:
        stage, _, index = name.partition(".")
        return self.program.stages[int(stage)].operations[int(index)]

    def _end(self) -> Command:
        if self.program.end == "fail":
            failure = Failure(message="as planned", application_failure_info=ApplicationFailureInfo(type="Planned"))
            return Command(
                command_type=C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, fail_workflow_execution_command_attributes={"failure": failure}
            )
        return Command(
            command_type=C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
            complete_workflow_execution_command_attributes={"result": payloads({"start": self.program.token, "signals": self.signals})},
        )


def ended_by(event: HistoryEvent) -> int | None:
    """The id of the event that began what this event ends; None when it ends nothing."""
    match event.event_type:
        case E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            return event.activity_task_completed_event_attributes.scheduled_event_id
        case E.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            return event.activity_task_failed_event_attributes.scheduled_event_id
        case E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return event.activity_task_timed_out_event_attributes.scheduled_event_id
        case E.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            return event.activity_task_canceled_event_attributes.scheduled_event_id
        case E.EVENT_TYPE_TIMER_FIRED:
            return event.timer_fired_event_attributes.started_event_id
        case E.EVENT_TYPE_TIMER_CANCELED:
            return event.timer_canceled_event_attributes.started_event_id
        case _:
            return None


def _begin_command(name: str, operation: Operation) -> Command:
    if operation.kind == "timer":
        return Command(
            command_type=C.COMMAND_TYPE_START_TIMER,
            start_timer_command_attributes={"timer_id": name, "start_to_fire_timeout": to_duration(operation.milliseconds * MILLISECOND)},
        )
    times = {
        f"{name}_timeout": to_duration(getattr(operation, name) * MILLISECOND)
        for name in ("start_to_close", "schedule_to_close", "schedule_to_start", "heartbeat")
        if getattr(operation, name)
    }
    return Command(
        command_type=C.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes={
            "activity_id": name, "activity_type": {"name": "Work"}, "task_queue": {"name": "work"}, "input": payloads(operation),
            "retry_policy": {"maximum_attempts": operation.attempts, "initial_interval": to_duration(operation.retry_interval * MILLISECOND)},
            **times,
        },
    )  # fmt: skip
