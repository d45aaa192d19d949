"""A step costs what it changes, not what the run carries: counted in instructions, so that no neighbour and no clock has a say.

What a C function does (a copy, a sort) is one instruction; so the pending activities count who looks at all of them, too.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from temporalio.api.command.v1 import Command, RecordMarkerCommandAttributes, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice import v1 as service

from perdure.app import Core
from perdure.core.call import Call
from perdure.core.clock import SECOND, SystemClock, to_duration
from perdure.core.execution import ChainKey
from perdure.core.ids import IdSource
from perdure.engine.live import AnyExecution
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.kind import WORKFLOW
from perdure.observability.metrics import Registry
from perdure.settings import ServerSettings
from perdure.store import create_store
from perdure.testing.bench.requests import schedule_command, start_request
from tests.support.virtual_server import QUEUE
from tests.support.waiting import until

MOST = 1.2
"""The design's budget: cost at the end by cost at the start."""
MARKER = Command(
    command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=RecordMarkerCommandAttributes(marker_name="mark")
)
ACTIVITY_TYPE = schedule_command(QUEUE).schedule_activity_task_command_attributes.activity_type.name
STICKY = StickyExecutionAttributes(worker_task_queue=QUEUE, schedule_to_start_timeout=to_duration(10 * SECOND))


class Watched(dict[int, Activity]):
    """The pending activities of a run; they count how many of them are looked at without being asked for by their key."""

    looked_at = 0

    def _all(self) -> None:
        self.looked_at += len(self)

    def __iter__(self) -> Iterator[int]:
        self._all()
        return super().__iter__()

    def keys(self) -> Any:
        self._all()
        return super().keys()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def copy(self) -> dict[int, Activity]:
        self._all()
        return super().copy()


def child_command(workflow_id: str) -> Command:
    attributes = StartChildWorkflowExecutionCommandAttributes(
        workflow_id=workflow_id, workflow_type=WorkflowType(name="Child"), task_queue=TaskQueue(name="children")
    )
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, start_child_workflow_execution_command_attributes=attributes
    )


class Calls:
    """Handlers called directly."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._token = b""

    async def do(self, method: str, request: Any) -> Any:
        call = Call(method, namespace_id=self._core.namespaces.id_of("default") or "")
        found = self._core.methods.get(method)
        assert found.handler is not None
        return found.response(await found.handler(request, call))

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

    async def control(self, what: str, **which: str) -> None:
        """Pause, unpause or reset activities, by id or by type."""
        request = getattr(service, f"{what}ActivityRequest")(namespace="default", **which)
        request.execution.workflow_id = "big"
        await self.do(f"{what}Activity", request)

    async def run(self, workflow_id: str = "big") -> AnyExecution:
        execution = await self._core.engine.read(ChainKey(self._core.namespaces.id_of("default") or "", WORKFLOW, workflow_id), None)
        assert execution is not None
        return execution

    async def terminate(self) -> None:
        request = service.TerminateWorkflowExecutionRequest(namespace="default")
        request.workflow_execution.workflow_id = "big"
        await self.do("TerminateWorkflowExecution", request)

    async def watch_activities(self) -> Watched:
        """Let the pending activities of the run count who looks at them."""
        execution = await self.run()
        watched = execution.state.activities = Watched(execution.state.activities)
        return watched

    async def complete_activity(self) -> None:
        task = await self.do("PollActivityTaskQueue", service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE))
        await self.do("RespondActivityTaskCompleted", service.RespondActivityTaskCompletedRequest(task_token=task.task_token))


async def cost(piece: Callable[[], Awaitable[None]], times: int = 10) -> float:
    """How many instructions a piece of work takes; the median of some, as a timer of the server or a finalizer may run between."""
    count = 0
    counts: list[int] = []

    def counted(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return counted

    sys.settrace(counted)
    try:
        for _ in range(times):
            count = 0
            await piece()
            counts.append(count)
    finally:
        sys.settrace(None)
    return statistics.median(counts)


async def rounds(calls: Calls) -> tuple[float, float]:
    """From the first events to about 50,000."""

    async def one() -> None:
        await calls.decide(MARKER)

    await calls.start()
    await calls.take_task()
    for _ in range(10):
        await one()
    first = await cost(one)
    for _ in range(240):
        await calls.decide(*[MARKER] * 204)  # and three events of the task
    return first, await cost(one)


async def signals(calls: Calls) -> tuple[float, float]:
    """From the first to as many as a run takes."""
    await calls.start()
    for _ in range(10):
        await calls.signal()
    first = await cost(calls.signal)
    for _ in range(9_960):
        await calls.signal()
    return first, await cost(calls.signal)


async def schedule_activities(calls: Calls, count: int) -> None:
    """Begin a run with so many pending activities."""
    commands = [schedule_command(QUEUE) for _ in range(count)]
    for number, command in enumerate(commands):
        command.schedule_activity_task_command_attributes.activity_id = str(number)
    await calls.start()
    await calls.take_task()
    await calls.decide(*commands)


async def activities(calls: Calls) -> tuple[float, float]:
    """The other way round: the first ones are completed while the others are pending, the last ones alone."""
    await schedule_activities(calls, 2_000)
    for _ in range(10):
        await calls.complete_activity()
    many = await cost(calls.complete_activity)
    for _ in range(1_960):
        await calls.complete_activity()
    return await cost(calls.complete_activity), many


@contextlib.asynccontextmanager
async def server() -> AsyncGenerator[Core]:
    async with contextlib.AsyncExitStack() as stack:
        core = Core(ServerSettings(database=""), create_store(""), SystemClock(), IdSource(), Registry(), owner="test")
        await core.start(stack)
        for partition in core.engine.partitions:
            partition.recorder.inspector = None  # it folds whole journals after every step
        yield core


@pytest.mark.parametrize("run", [rounds, signals, activities])
async def test_a_step_costs_what_it_changes(run: Callable[[Calls], Awaitable[tuple[float, float]]]) -> None:
    async with server() as core:
        small, big = await run(Calls(core))
    assert big <= MOST * small, f"{big:.0f} instructions with much, {small:.0f} with little"


@pytest.mark.parametrize("what", ["Pause", "Unpause", "Reset"])
async def test_a_step_that_changes_all_activities_costs_each_the_same(what: str) -> None:
    async def each(count: int) -> float:
        async with server() as core:
            calls = Calls(core)
            await schedule_activities(calls, count)
            if what == "Unpause":
                await calls.control("Pause", type=ACTIVITY_TYPE)
            return await cost(lambda: calls.control(what, type=ACTIVITY_TYPE), 1) / count

    few, many = await each(100), await each(2_000)
    assert many <= MOST * few, f"{many:.0f} instructions for one of many, {few:.0f} for one of few"


async def test_the_end_of_a_family_costs_each_child_the_same() -> None:
    """The parent's close reaches every child, and every child reports its end to a parent that is gone."""

    async def each(count: int) -> float:
        async with server() as core:
            calls = Calls(core)
            await calls.start()
            await calls.take_task()
            await calls.decide(*(child_command(f"child {number}") for number in range(count)))
            parent = await calls.run()

            async def all_begun() -> bool:
                return all(child.first_run_id for child in parent.state.children.values())

            await until(all_begun)
            last = await calls.run(f"child {count - 1}")

            async def all_told() -> bool:
                return not (parent.header.ready or last.header.ready)

            async def end() -> None:
                await calls.terminate()
                await until(all_told)

            return await cost(end, 1) / count

    few, many = await each(20), await each(200)
    assert many <= MOST * few, f"{many:.0f} instructions for one of many, {few:.0f} for one of few"


async def test_only_what_means_all_activities_looks_at_all_of_them() -> None:
    async with server() as core:
        calls = Calls(core)
        await schedule_activities(calls, 100)
        watched = await calls.watch_activities()
        await calls.signal()
        await calls.decide(MARKER)
        await calls.complete_activity()
        await calls.complete_activity()
        for what in ("Pause", "Unpause", "Reset"):
            await calls.control(what, id="50")
        assert (len(watched), watched.looked_at) == (98, 0)
        await calls.control("Pause", type=ACTIVITY_TYPE)
        assert watched.looked_at == 98, "once, to select them"
