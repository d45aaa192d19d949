"""Load on big executions and on many idle ones: ``python -m perdure.testing.bench.big_driver ADDRESS``; bare calls, no SDK worker."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, RecordMarkerCommandAttributes
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    SignalWorkflowExecutionRequest,
)
from temporalio.client import Client

from perdure.testing.bench.driver import Load, answer_jobs, many, run_driver
from perdure.testing.bench.raw_driver import POLL_TIMEOUT
from perdure.testing.bench.requests import IDENTITY, NAMESPACE, schedule_command, start_request

RUN = f"bench-big-{uuid.uuid4().hex[:8]}"
QUEUE = TaskQueue(name=RUN)
NOBODY = TaskQueue(name=f"{RUN}-nobody-polls")
SLEEP = Duration(seconds=3 * 24 * 3600)

MARKERS = 100
EVENTS_PER_ROUND = MARKERS + 3
"""A round is one workflow task with so many markers; its own three events come on top."""
ACTIVITIES_AT_A_TIME = 20
SIGNALS_AT_A_TIME = 50
STARTS_AT_A_TIME = 200


class BigRuns:
    """One run of each kind; their ids and what is needed to go on with them."""

    def __init__(self, client: Client) -> None:
        self._service = client.workflow_service
        self._token = b""

    async def do(self, job: dict[str, Any]) -> Load:
        """Do one job; its name is that of a method here, count its only argument."""
        return await getattr(self, job["job"])(job["count"])

    async def events(self, count: int) -> Load:
        """So many rounds of a run whose history only grows. The first call starts it."""
        if not self._token:
            self._token = await self._first_task("history", QUEUE)
        marker = RecordMarkerCommandAttributes(marker_name="mark")
        command = Command(command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=marker)
        sticky = StickyExecutionAttributes(worker_task_queue=QUEUE, schedule_to_start_timeout=Duration(seconds=10))

        async def one(_: int) -> None:
            answer = await self._service.respond_workflow_task_completed(
                RespondWorkflowTaskCompletedRequest(
                    namespace=NAMESPACE, task_token=self._token, identity=IDENTITY, commands=[command] * MARKERS, sticky_attributes=sticky,
                    force_create_new_workflow_task=True, return_new_workflow_task=True,
                )
            )  # fmt: skip
            self._token = answer.workflow_task.task_token

        return await many(count, 1, one)

    async def open_signals(self, count: int) -> Load:
        """Start a run that nobody works on."""
        return await many(1, 1, lambda _: self._start("signals", NOBODY))

    async def signals(self, count: int) -> Load:
        """Send it so many signals."""
        request = SignalWorkflowExecutionRequest(namespace=NAMESPACE, signal_name="s", identity=IDENTITY)
        request.workflow_execution.workflow_id = f"{RUN}-signals"

        async def one(_: int) -> None:
            await self._service.signal_workflow_execution(request)

        return await many(count, SIGNALS_AT_A_TIME, one)

    async def open_activities(self, count: int) -> Load:
        """Start a run that schedules so many activities in one task."""

        async def one(_: int) -> None:
            token = await self._first_task("activities", TaskQueue(name=f"{RUN}-activities"))
            commands = [schedule_command(QUEUE) for _ in range(count)]
            for number, command in enumerate(commands):
                command.schedule_activity_task_command_attributes.activity_id = str(number)
                command.schedule_activity_task_command_attributes.start_to_close_timeout.FromSeconds(3600)
            await self._service.respond_workflow_task_completed(
                RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=token, identity=IDENTITY, commands=commands)
            )

        return await many(1, 1, one)

    async def activities(self, count: int) -> Load:
        """Take so many of them and complete them."""
        poll = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=QUEUE, identity=IDENTITY)

        async def one(_: int) -> None:
            task = await self._service.poll_activity_task_queue(poll, timeout=POLL_TIMEOUT)
            await self._service.respond_activity_task_completed(
                RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token, identity=IDENTITY)
            )

        return await many(count, ACTIVITIES_AT_A_TIME, one)

    async def idle(self, count: int) -> Load:
        """Start so many runs whose first task is days away."""

        async def one(number: int) -> None:
            request = start_request(f"{RUN}-idle-{number}", NOBODY)
            request.workflow_start_delay.CopyFrom(SLEEP)
            await self._service.start_workflow_execution(request)

        return await many(count, STARTS_AT_A_TIME, one)

    async def _start(self, name: str, queue: TaskQueue) -> None:
        await self._service.start_workflow_execution(start_request(f"{RUN}-{name}", queue))

    async def _first_task(self, name: str, queue: TaskQueue) -> bytes:
        await self._start(name, queue)
        request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=queue, identity=IDENTITY)
        return (await self._service.poll_workflow_task_queue(request, timeout=POLL_TIMEOUT)).task_token


async def _main() -> None:
    await answer_jobs(BigRuns(await Client.connect(sys.argv[1])).do)


if __name__ == "__main__":
    run_driver(_main)
