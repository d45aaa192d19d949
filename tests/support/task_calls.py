"""Calls about workflow tasks, queues and queries, for tests that are their own worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.command.v1 import (
    CancelTimerCommandAttributes,
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    RecordMarkerCommandAttributes,
    StartTimerCommandAttributes,
)
from temporalio.api.common.v1 import Priority, WorkflowExecution
from temporalio.api.enums.v1 import CommandType, EventType, QueryResultType, TaskQueueKind, WorkflowTaskFailedCause
from temporalio.api.query.v1 import WorkflowQuery, WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice import v1 as service

from perdure.core.call import WORKFLOW_SERVICE, Call
from perdure.core.clock import SECOND, to_duration
from perdure.engine.upkeep import until
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, payloads

STICKY = TaskQueue(name="sticky", kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=QUEUE.name)
EXECUTION = WorkflowExecution(workflow_id=WORKFLOW_ID)
BOOM = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE

Task = service.PollWorkflowTaskQueueResponse


def complete_workflow() -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=CompleteWorkflowExecutionCommandAttributes(),
    )


def marker(name: str = "mark") -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_RECORD_MARKER,
        record_marker_command_attributes=RecordMarkerCommandAttributes(marker_name=name),
    )


def timer(timer_id: str, seconds: float) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=StartTimerCommandAttributes(
            timer_id=timer_id, start_to_fire_timeout=to_duration(int(seconds * SECOND))
        ),
    )


def nameless_timer() -> Command:
    """A command that fails its task."""
    return timer("", 1)


def cancel_timer(timer_id: str) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CANCEL_TIMER, cancel_timer_command_attributes=CancelTimerCommandAttributes(timer_id=timer_id)
    )


def sticky(seconds: float = 5) -> StickyExecutionAttributes:
    return StickyExecutionAttributes(worker_task_queue=STICKY, schedule_to_start_timeout=to_duration(int(seconds * SECOND)))


async def elapse(server: VirtualServer, seconds: float) -> None:
    """Let virtual time pass, and with it everything that is due."""
    await until(server.clock, server.clock.now() + int(seconds * SECOND))


async def poll(server: VirtualServer, queue: TaskQueue = QUEUE, timeout: float = 60, **more: Any) -> Task:
    request = service.PollWorkflowTaskQueueRequest(namespace="default", task_queue=queue, identity="worker", **more)
    return await server.call("PollWorkflowTaskQueue", request, timeout)


async def poll_and_leave(server: VirtualServer, method: str, request: Any, is_connected: Callable[[], bool]) -> Any:
    """Poll on a connection that may break."""
    found = server.core.methods.get(method, WORKFLOW_SERVICE)
    call = Call(method, deadline=server.clock.now() + 60 * SECOND, is_connected=is_connected)
    return found.response(await server.core.dispatcher.handler(found)(request, call))


async def leave_at_once(server: VirtualServer, method: str, request: object) -> None:
    """Take a task on a connection that breaks while the answer is being made."""
    asked = 0

    def is_connected() -> bool:
        nonlocal asked
        asked += 1
        return asked <= 1

    poll_task = asyncio.ensure_future(poll_and_leave(server, method, request, is_connected))
    answer = await poll_task
    assert not answer.task_token


async def poll_and_vanish(server: VirtualServer) -> None:
    """Take a workflow task that never arrives."""
    request = service.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="gone")
    await leave_at_once(server, "PollWorkflowTaskQueue", request)


async def complete(server: VirtualServer, task: Task, *commands: Command, **more: Any) -> service.RespondWorkflowTaskCompletedResponse:
    request = service.RespondWorkflowTaskCompletedRequest(
        namespace="default", task_token=task.task_token, identity="worker", commands=commands, **more
    )
    return await server.call("RespondWorkflowTaskCompleted", request)


async def fail(server: VirtualServer, task: Task, cause: WorkflowTaskFailedCause.ValueType = BOOM) -> None:
    request = service.RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token, cause=cause, identity="worker")
    await server.call("RespondWorkflowTaskFailed", request)


async def signal(server: VirtualServer, workflow_id: str = WORKFLOW_ID, name: str = "signal") -> None:
    request = service.SignalWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=workflow_id), signal_name=name
    )
    await server.call("SignalWorkflowExecution", request)


async def prioritize(server: VirtualServer, workflow_id: str, priority_key: int) -> None:
    request = service.UpdateWorkflowExecutionOptionsRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=priority_key)),
        update_mask=FieldMask(paths=["priority"]),
    )  # fmt: skip
    await server.call("UpdateWorkflowExecutionOptions", request)


async def terminate(server: VirtualServer) -> None:
    await server.call(
        "TerminateWorkflowExecution", service.TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION)
    )


async def types(server: VirtualServer) -> list[str]:
    """The types of the events of the workflow."""
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in await server.history()]


def query(server: VirtualServer, timeout: float = 30) -> asyncio.Task[service.QueryWorkflowResponse]:
    """A query under way."""
    request = service.QueryWorkflowRequest(namespace="default", execution=EXECUTION, query=WorkflowQuery(query_type="q"))
    return asyncio.ensure_future(server.call("QueryWorkflow", request, timeout))


def answers(task: Task, text: str) -> dict[str, WorkflowQueryResult]:
    """The same answer to every query that a workflow task carries."""
    answer = WorkflowQueryResult(result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED, answer=payloads(text))
    return dict.fromkeys(task.queries, answer)


async def answer_query(server: VirtualServer, task: Task, text: str) -> None:
    """Answer a query that is a task of its own."""
    request = service.RespondQueryTaskCompletedRequest(
        namespace="default",
        task_token=task.task_token,
        completed_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
        query_result=payloads(text),
    )
    await server.call("RespondQueryTaskCompleted", request)


def text_of(response: service.QueryWorkflowResponse) -> str:
    return response.query_result.payloads[0].data.decode()
