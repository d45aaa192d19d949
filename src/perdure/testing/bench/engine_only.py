"""The engine alone: ``python -m perdure.testing.bench.engine_only WORKFLOWS [--profile]``.

The handlers of one-activity workflows are called directly: no gRPC, and a store that forgets at once. What is left is to load, decide,
apply, encode, schedule and hand out.
"""

from __future__ import annotations

import asyncio
import cProfile
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from perdure.core.lean_import import defer_sdk

TRANSITIONS = 7
"""Of a one-activity run: its start, start and completion of its first task, of the activity, and of the second task."""


BLOCK = 50


class EngineLoad(msgspec.Struct):
    """cpu_seconds: CPU time of each block of so many one-activity workflows. Blocks tell the work from what other processes do to it."""

    block: int
    cpu_seconds: list[float]

    def per_transition(self) -> list[float]:
        """Seconds of CPU time per transition, of each block."""
        return [seconds / self.block / TRANSITIONS for seconds in self.cpu_seconds]


async def measure(workflows: int, *, profile: cProfile.Profile | None = None) -> EngineLoad:
    """Run so many workflows, one after the other."""
    from temporalio.api.taskqueue.v1 import TaskQueue

    from perdure.app import Core
    from perdure.core.clock import SystemClock
    from perdure.core.ids import IdSource
    from perdure.observability.metrics import Registry
    from perdure.settings import ServerSettings
    from perdure.store.protocol import Commit, Header
    from perdure.store.sqlite import MEMORY, SqliteStore

    class ForgetfulStore(SqliteStore):
        """Knows namespaces and leases, but no executions."""

        async def commit(self, commit: Commit) -> None:
            return

        async def find_current(self, namespace_id: str, kind: str, business_id: str) -> Header | None:
            return None

    settings = ServerSettings(database="")
    block = min(BLOCK, workflows)
    used: list[float] = []
    async with AsyncExitStack() as stack:
        core = Core(settings, ForgetfulStore(MEMORY), SystemClock(), IdSource(), Registry(), owner="bench")
        await core.start(stack)
        worker = _Worker(core, TaskQueue(name="bench"))
        await worker.run_workflows("warm-up", block)
        if profile is not None:
            profile.enable()
        for number in range(workflows // block):
            before = time.process_time()
            await worker.run_workflows(f"bench-{number}", block)
            used.append(time.process_time() - before)
        if profile is not None:
            profile.disable()
    return EngineLoad(block, used)


class _Worker:
    """Client and worker of one run at a time, as calls of handlers. The requests are made once, to measure the server only."""

    def __init__(self, core: Any, queue: Any) -> None:
        from temporalio.api.workflowservice.v1 import (
            PollActivityTaskQueueRequest,
            PollWorkflowTaskQueueRequest,
            RespondActivityTaskCompletedRequest,
            RespondWorkflowTaskCompletedRequest,
        )

        from perdure.core.call import Call
        from perdure.testing.bench import requests

        self._methods = core.methods
        self._call = Call("", namespace_id=core.namespaces.id_of("default") or "")
        self._start = requests.start_request("", queue)
        self._poll_workflow = PollWorkflowTaskQueueRequest(namespace="default", task_queue=queue, identity="bench")
        self._poll_activity = PollActivityTaskQueueRequest(namespace="default", task_queue=queue, identity="bench")
        self._schedule = RespondWorkflowTaskCompletedRequest(namespace="default", commands=[requests.schedule_command(queue)])
        self._complete = RespondWorkflowTaskCompletedRequest(namespace="default", commands=[requests.complete_command()])
        self._activity = RespondActivityTaskCompletedRequest(namespace="default", result=requests.PAYLOADS)

    async def _do(self, method: str, request: Any) -> Any:
        found = self._methods.get(method)
        return found.response(await found.handler(request, self._call))

    async def run_workflows(self, name: str, count: int) -> None:
        for number in range(count):
            await self._run_workflow(f"{name}-{number}")

    async def _run_workflow(self, workflow_id: str) -> None:
        self._start.workflow_id = self._start.request_id = workflow_id
        await self._do("StartWorkflowExecution", self._start)
        await self._answer("PollWorkflowTaskQueue", self._poll_workflow, "RespondWorkflowTaskCompleted", self._schedule)
        await self._answer("PollActivityTaskQueue", self._poll_activity, "RespondActivityTaskCompleted", self._activity)
        await self._answer("PollWorkflowTaskQueue", self._poll_workflow, "RespondWorkflowTaskCompleted", self._complete)

    async def _answer(self, poll: str, poll_request: Any, respond: str, response: Any) -> None:
        response.task_token = (await self._do(poll, poll_request)).task_token
        await self._do(respond, response)


def _main() -> None:
    defer_sdk()
    import uvloop

    workflows, profile = int(sys.argv[1]), cProfile.Profile() if "--profile" in sys.argv else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(measure(workflows, profile=profile))
    if profile is None:
        print(msgspec.json.encode(load).decode())
    else:
        import pstats

        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    _main()
