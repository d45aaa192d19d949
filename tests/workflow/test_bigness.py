"""A step costs what it changes, not what the run carries: counted in function calls, so that no neighbour and no clock has a say."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import pytest
from temporalio.api.command.v1 import Command, RecordMarkerCommandAttributes
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes
from temporalio.api.workflowservice import v1 as service

from perdure.app import Core
from perdure.core.call import Call
from perdure.core.clock import SECOND, SystemClock, to_duration
from perdure.core.ids import IdSource
from perdure.observability.metrics import Registry
from perdure.settings import ServerSettings
from perdure.store import create_store
from perdure.testing.bench.requests import schedule_command, start_request
from tests.support.virtual_server import QUEUE

MOST = 1.2
"""The design's budget: cost at the end by cost at the start."""
MARKER = Command(
    command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=RecordMarkerCommandAttributes(marker_name="mark")
)
STICKY = StickyExecutionAttributes(worker_task_queue=QUEUE, schedule_to_start_timeout=to_duration(10 * SECOND))


class Calls:
    """Handlers called directly."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._token = b""

    async def do(self, method: str, request: Any) -> Any:
        call = Call(method, namespace_id=self._core.namespaces.id_of("default") or "")
        handler = self._core.methods.get(method).handler
        assert handler is not None
        return await handler(request, call)

    async def start(self) -> None:
        await self.do("StartWorkflowExecution", start_request("big", QUEUE))

    async def take_task(self) -> None:
        request = service.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE)
        self._token = (await self.do("PollWorkflowTaskQueue", request)).task_token

    async def decide(self, *commands: Command) -> None:
        """Answer the task, and get the next one with the answer."""
        request = service.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=self._token, commands=commands, sticky_attributes=STICKY, force_create_new_workflow_task=True,
            return_new_workflow_task=True,
        )  # fmt: skip
        self._token = (await self.do("RespondWorkflowTaskCompleted", request)).workflow_task.task_token

    async def signal(self) -> None:
        request = service.SignalWorkflowExecutionRequest(namespace="default", signal_name="s")
        request.workflow_execution.workflow_id = "big"
        await self.do("SignalWorkflowExecution", request)

    async def complete_activity(self) -> None:
        task = await self.do("PollActivityTaskQueue", service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE))
        await self.do("RespondActivityTaskCompleted", service.RespondActivityTaskCompletedRequest(task_token=task.task_token))


async def function_calls(piece: Callable[[], Awaitable[None]], times: int = 10) -> float:
    """How many functions, in Python and in C, a piece of work calls; the mean of some."""
    count = 0

    def counted(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        for _ in range(times):
            await piece()
    finally:
        sys.setprofile(None)
    return count / times


async def rounds(calls: Calls) -> tuple[float, float]:
    """From the first events to about 50,000."""

    async def one() -> None:
        await calls.decide(MARKER)

    await calls.start()
    await calls.take_task()
    for _ in range(10):
        await one()
    first = await function_calls(one)
    for _ in range(240):
        await calls.decide(*[MARKER] * 204)  # and three events of the task
    return first, await function_calls(one)


async def signals(calls: Calls) -> tuple[float, float]:
    """From the first to as many as a run takes."""
    await calls.start()
    for _ in range(10):
        await calls.signal()
    first = await function_calls(calls.signal)
    for _ in range(9_960):
        await calls.signal()
    return first, await function_calls(calls.signal)


async def activities(calls: Calls) -> tuple[float, float]:
    """The other way round: the first ones are completed while the others are pending, the last ones alone."""
    commands = [schedule_command(QUEUE) for _ in range(2_000)]
    for number, command in enumerate(commands):
        command.schedule_activity_task_command_attributes.activity_id = str(number)
    await calls.start()
    await calls.take_task()
    await calls.decide(*commands)
    for _ in range(10):
        await calls.complete_activity()
    many = await function_calls(calls.complete_activity)
    for _ in range(1_960):
        await calls.complete_activity()
    return await function_calls(calls.complete_activity), many


@pytest.mark.parametrize("run", [rounds, signals, activities])
async def test_a_step_costs_what_it_changes(run: Callable[[Calls], Awaitable[tuple[float, float]]]) -> None:
    async with AsyncExitStack() as stack:
        core = Core(ServerSettings(database=""), create_store(""), SystemClock(), IdSource(), Registry(), owner="test")
        await core.start(stack)
        for partition in core.engine.partitions:
            partition.inspector = None  # it folds whole journals after every step
        small, big = await run(Calls(core))
    assert big <= MOST * small, f"{big:.0f} function calls with much, {small:.0f} with little"
