"""A whole server on virtual time, without a network: raw calls, every step inspected, nothing waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    StartWorkflowExecutionRequest,
)

from perdure.app import Core
from perdure.core.call import WORKFLOW_SERVICE, Call
from perdure.core.clock import SECOND
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.features.workflow.state import WorkflowState
from perdure.observability.metrics import Registry
from perdure.settings import ServerSettings
from perdure.store.opening import create_store
from perdure.testing.faulty_store import FaultyStore
from perdure.testing.inspector import Inspector
from perdure.testing.virtual_time import VirtualClock, VirtualTimeLoop, run_virtual

QUEUE = TaskQueue(name="queue")
WORKFLOW_ID = "workflow"


class VirtualServer:
    """A server, and what a worker and a client of one workflow do to it.

    store: its faults can be set. now: nanoseconds since the epoch.
    """

    def __init__(self, loop: VirtualTimeLoop, seed: int, dynamic_config: dict[str, Any], settings: dict[str, Any]) -> None:
        self.clock = VirtualClock(loop)
        self.base = create_store("")
        self._random = random.Random(seed)
        self.store = FaultyStore(self.base, self._random)
        self.inspector = Inspector()
        settings = {"limits": Limits.from_dynamic_config(dynamic_config), **settings}
        self._settings = ServerSettings(database="", metrics_port=None, **settings)
        self._ids = IdSource(seed)
        self._stack = AsyncExitStack()
        self.core: Core

    async def start(self) -> None:
        registry = Registry()
        self.core = Core(self._settings, self.store, self.clock, self._ids, registry, owner="tested")
        await self.core.start(self._stack)
        self.inspector.attach(self.core.engine)

    async def stop(self) -> None:
        await self.core.drain()
        await self._stack.aclose()

    async def restart(self) -> None:
        """Memory is gone; what the store has is there."""
        await self.stop()
        self._stack = AsyncExitStack()
        await self.start()

    async def crash(self) -> None:
        """The server is killed, and another one takes over once its lease has run out. Memory is gone, and nothing more is written."""
        self.store.cut()
        await self.stop()
        self.store = FaultyStore(self.base, self._random)
        self._stack = AsyncExitStack()
        await self.start()

    async def pass_time(self, seconds: float) -> None:
        """Let virtual time go on; everything that is due happens."""
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clock.call_at(self.clock.now() + int(seconds * SECOND), lambda: passed.set_result(None))
        await passed

    async def call(self, method: str, request: Any, timeout: float = 10.0) -> Any:
        """timeout: seconds of the call's deadline. Raises ApiError."""
        found = self.core.methods.get(method, WORKFLOW_SERVICE)
        call = Call(method, deadline=self.clock.now() + int(timeout * SECOND))
        # The server gets a message of its own, as from a wire.
        copy = found.request_type.FromString(request.SerializeToString())
        return found.response(await self.core.dispatcher.handler(found)(copy, call))

    # -- one workflow ---------------------------------------------------------------------------------
    async def start_workflow(self, workflow_id: str = WORKFLOW_ID, **more: Any) -> str:
        """Returns the run id."""
        request = StartWorkflowExecutionRequest(
            namespace="default", workflow_id=workflow_id, workflow_type=WorkflowType(name="Workflow"), task_queue=QUEUE,
            request_id=self._ids.uuid(), **more,
        )  # fmt: skip
        return (await self.call("StartWorkflowExecution", request)).run_id

    async def decide(self, *commands: Command) -> RespondWorkflowTaskCompletedResponse:
        """Take the next workflow task and answer it with these commands."""
        poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
        task = await self.call("PollWorkflowTaskQueue", poll, 60)
        assert task.task_token, "there is no workflow task"
        request = RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands, identity="worker")
        return await self.call("RespondWorkflowTaskCompleted", request)

    async def activity_task(self, timeout: float = 100.0) -> PollActivityTaskQueueResponse:
        """The next activity attempt; without a token when there is none within so many seconds."""
        request = PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
        return await self.call("PollActivityTaskQueue", request, timeout)

    async def history(self, workflow_id: str = WORKFLOW_ID) -> list[HistoryEvent]:
        """The events of the current run."""
        request = GetWorkflowExecutionHistoryRequest(namespace="default", execution=WorkflowExecution(workflow_id=workflow_id))
        return list((await self.call("GetWorkflowExecutionHistory", request)).history.events)

    async def state(self) -> WorkflowState:
        """What the server knows of the current run."""
        from perdure.core.execution import ChainKey

        namespace_id = self.core.namespaces.id_of("default")
        assert namespace_id is not None
        execution = await self.core.engine.read(ChainKey(namespace_id, "workflow", WORKFLOW_ID), None)
        assert execution is not None
        return execution.state


def on_virtual_server(
    test: Callable[[VirtualServer], Coroutine[Any, Any, None]], *, seed: int = 0, dynamic_config: dict[str, Any] | None = None,
    **settings: Any,
) -> None:  # fmt: skip
    """Run a test against a new server; fails also when an invariant of the engine was broken on the way.

    dynamic_config: limits by their official keys. settings: others of :class:`perdure.settings.ServerSettings`.
    """

    async def main(loop: VirtualTimeLoop) -> None:
        server = VirtualServer(loop, seed, dynamic_config or {}, settings)
        await server.base.open()
        try:
            await server.start()
            await test(server)
            await server.stop()
        finally:
            await server.base.close()
        server.inspector.verify()

    run_virtual(main)


def payloads(text: str) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=text.encode())])
