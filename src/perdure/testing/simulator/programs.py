"""Model workflows as data: what they do, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from temporalio.api.common.v1 import Payload, Payloads


class Operation(msgspec.Struct, kw_only=True):
    """One thing a workflow waits for. kind: "activity", "timer", "child" or "signal". Times are milliseconds, 0 for none.

    attempts: at most so many, 0 for any number. failing: how often an attempt fails, 0 to 1. works: how long an attempt takes. beats: it
    heartbeats. child: what the child does; parent_close: its ParentClosePolicy. target, token: the workflow id to signal, and the signal.
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
    child: Program | None = None
    parent_close: int = 1
    target: str = ""
    token: str = ""


class Stage(msgspec.Struct):
    """Operations started together. wait: "all" of them, or "any", then the others are canceled. signals: so many must have come too."""

    operations: list[Operation]
    wait: str = "all"
    signals: int = 0


class Program(msgspec.Struct):
    """A workflow. token: of the start that brought it. end: "complete", "fail" or "continue" (as new, as `successor`).

    on_cancel: "obey", or "finish" as if nothing had been asked.
    """

    token: str
    stages: list[Stage]
    end: str = "complete"
    on_cancel: str = "obey"
    successor: Program | None = None


CHILD = "child-"
"""Workflow ids of children begin so; the rest is the token of their program, so each is started once."""

_ENCODER = msgspec.json.Encoder()


def payloads(value: Any) -> Payloads:
    """A value as the SDKs' JSON payload."""
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=_ENCODER.encode(value))])


def value_of(data: Payloads, expected: type[Any] = object) -> Any:
    """The first payload's value."""
    return msgspec.json.decode(data.payloads[0].data, type=expected) if data.payloads else None


class ProgramMaker:
    """Makes random programs that end once workers behave.

    new_token: gives unique texts. workflow_ids: of the workflows that signals go to.
    """

    def __init__(self, rng: random.Random, new_token: Callable[[], str], workflow_ids: list[str]) -> None:
        self._rng = rng
        self._new_token = new_token
        self._workflow_ids = workflow_ids

    def make(self, depth: int = 2) -> Program:
        """depth: how many generations of children and successors it may have."""
        rng = self._rng
        stages: list[Stage] = []
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))):
            operations = [self._operation(depth) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5)))]
            stages.append(Stage(operations, wait=rng.choice(("all", "all", "any")), signals=rng.choice((0, 0, 0, 0, 1))))
        program = Program(self._new_token(), stages, on_cancel=rng.choice(("obey", "obey", "finish")))
        chance = rng.random()
        if chance < 0.1:
            program.end = "fail"
        elif chance < 0.25 and depth:
            program.end = "continue"
            program.successor = self.make(depth - 1)
        return program

    def make_busy(self) -> Program:
        """A program that consists of activities that take their time, and often fail."""
        operations = [self._activity() for _ in range(self._rng.choice((1, 2, 3)))]
        for operation in operations:
            operation.works = self._rng.choice((500, 3000))
            operation.failing = self._rng.choice((0.3, 0.6))
        return Program(self._new_token(), [Stage(operations)])

    def _operation(self, depth: int) -> Operation:
        rng = self._rng
        chance = rng.random()
        if chance < 0.3:
            # Often equal, so that several things happen in the same instant.
            return Operation(kind="timer", milliseconds=rng.choice((1, 10, 1000, 1000, 2000, 5000, 5000, 20_000, 90_000, 600_000)))
        if chance < 0.4 and depth:
            return Operation(kind="child", child=self.make(depth - 1), parent_close=rng.choice((1, 2, 3)))
        if chance < 0.47:
            return Operation(kind="signal", target=rng.choice(self._workflow_ids), token=self._new_token())
        return self._activity()

    def _activity(self) -> Operation:
        rng = self._rng
        operation = Operation(
            kind="activity",
            attempts=rng.choice((0, 0, 1, 1, 2, 3)),
            failing=rng.choice((0.0, 0.0, 0.3, 0.6)),
            works=rng.choice((0, 0, 10, 500, 3000)),
            beats=rng.random() < 0.3,
            start_to_close=rng.choice((2000, 5000, 10_000, 60_000)),
            retry_interval=rng.choice((10, 1000, 1000, 5000)),
        )
        if operation.beats:
            operation.heartbeat = rng.choice((500, 1000, 5000))
        if rng.random() < 0.2:
            operation.schedule_to_close = rng.choice((3000, 15_000, 60_000))
        if rng.random() < 0.15:
            operation.schedule_to_start = rng.choice((1000, 5000, 30_000))
        return operation
