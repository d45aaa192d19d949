"""Load without an SDK's worker: ``python -m perdure.testing.bench.raw_driver ADDRESS`` polls and answers with bare calls.

It does what a worker does on the wire (sticky queue included), and computes nothing: the first task of a run schedules an activity, the
next one completes the run.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType, HistoryEventFilterType, TaskQueueKind
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
)
from temporalio.client import Client

from perdure.testing.bench.driver import Load, answer_jobs, many, run_driver
from perdure.testing.bench.requests import IDENTITY, NAMESPACE, PAYLOADS, complete_command, schedule_command, start_request

QUEUE = TaskQueue(name=f"bench-raw-{uuid.uuid4().hex[:8]}")
STICKY = TaskQueue(name=f"{QUEUE.name}-sticky", kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=QUEUE.name)
POLLERS = 5
POLL_TIMEOUT = timedelta(seconds=70)


class RawWorker:
    """Polls and answers."""

    def __init__(self, client: Client) -> None:
        self._service = client.workflow_service

    async def poll_workflow_tasks(self, queue: TaskQueue) -> None:
        request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=queue, identity=IDENTITY)
        while True:
            task = await self._service.poll_workflow_task_queue(request, timeout=POLL_TIMEOUT)
            if task.task_token:
                await self._service.respond_workflow_task_completed(_decide(task.task_token, task.previous_started_event_id == 0))

    async def poll_activity_tasks(self) -> None:
        request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=QUEUE, identity=IDENTITY)
        while True:
            task = await self._service.poll_activity_task_queue(request, timeout=POLL_TIMEOUT)
            if task.task_token:
                await self._service.respond_activity_task_completed(
                    RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token, result=PAYLOADS, identity=IDENTITY)
                )

    async def run_workflow(self) -> None:
        """Start a run and wait for its end."""
        workflow_id = f"bench-{uuid.uuid4().hex}"
        await self._service.start_workflow_execution(start_request(workflow_id, QUEUE))
        request = GetWorkflowExecutionHistoryRequest(
            namespace=NAMESPACE, wait_new_event=True, history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        )
        request.execution.workflow_id = workflow_id
        while True:
            response = await self._service.get_workflow_execution_history(request, timeout=POLL_TIMEOUT)
            if any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED for event in response.history.events):
                return
            request.next_page_token = response.next_page_token


def _decide(task_token: bytes, is_first: bool) -> RespondWorkflowTaskCompletedRequest:
    command = schedule_command(QUEUE) if is_first else complete_command()
    request = RespondWorkflowTaskCompletedRequest(
        namespace=NAMESPACE, task_token=task_token, identity=IDENTITY, commands=[command],
        sticky_attributes=StickyExecutionAttributes(worker_task_queue=STICKY),
    )  # fmt: skip
    request.sticky_attributes.schedule_to_start_timeout.FromSeconds(10)
    return request


async def _main() -> None:
    worker = RawWorker(await Client.connect(sys.argv[1]))

    async def do(job: dict[str, Any]) -> Load:
        return await many(job["count"], job["concurrency"], lambda _: worker.run_workflow())

    async with asyncio.TaskGroup() as group:
        loops = [worker.poll_workflow_tasks(QUEUE), worker.poll_workflow_tasks(STICKY), worker.poll_activity_tasks()]
        loops += [worker.poll_workflow_tasks(QUEUE) for _ in range(POLLERS - 1)]
        loops += [worker.poll_workflow_tasks(STICKY) for _ in range(POLLERS - 1)]
        loops += [worker.poll_activity_tasks() for _ in range(POLLERS - 1)]
        tasks = [group.create_task(loop) for loop in loops]
        await answer_jobs(do)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    run_driver(_main)
