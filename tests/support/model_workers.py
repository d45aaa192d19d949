"""Workers without an SDK: model workflows that decide by nothing but their history, so that any of their calls may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, ParentClosePolicy
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskCompletedRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

E = EventType
Decide = Callable[[str, Sequence[HistoryEvent]], list[Command]]

QUEUE = "queue"
TASK_TIMEOUT = Duration(seconds=1)


def command(kind: str, **attributes: Any) -> Command:
    """A command of a kind such as ``start_timer``."""
    result = Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"))
    field: Any = getattr(result, f"{kind}_command_attributes")
    field.CopyFrom(type(field)(**attributes))
    return result


def has(events: Sequence[HistoryEvent], event_type: EventType.ValueType) -> bool:
    return any(event.event_type == event_type for event in events)


def child(workflow_id: str, workflow_type: str, policy: ParentClosePolicy.ValueType) -> Command:
    return command(
        "start_child_workflow_execution",
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name=workflow_type),
        workflow_task_timeout=TASK_TIMEOUT,
        parent_close_policy=policy,
    )


def parent(workflow_id: str, events: Sequence[HistoryEvent]) -> list[Command]:
    """Starts three children, signals and cancels others; ends when one child has, and the messages have arrived."""
    if not has(events, E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED):
        return [
            child(f"{workflow_id}-quick", "quick", ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE),
            child(f"{workflow_id}-ended", "patient", ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE),
            child(f"{workflow_id}-asked", "patient", ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL),
            command(
                "signal_external_workflow_execution",
                execution=WorkflowExecution(workflow_id=f"{workflow_id}-signaled"),
                signal_name="hello",
            ),
            command("request_cancel_external_workflow_execution", workflow_id=f"{workflow_id}-canceled"),
        ]
    started = sum(event.event_type == E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED for event in events)
    done = started == 3 and all(
        has(events, event_type)
        for event_type in (
            E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
            E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
            E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
        )
    )
    return [command("complete_workflow_execution")] if done else []


def quick(workflow_id: str, events: Sequence[HistoryEvent]) -> list[Command]:
    return [command("complete_workflow_execution")]


def patient(workflow_id: str, events: Sequence[HistoryEvent]) -> list[Command]:
    """Ends only when asked to."""
    return [command("cancel_workflow_execution")] if has(events, E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED) else []


def restless(workflow_id: str, events: Sequence[HistoryEvent]) -> list[Command]:
    """Continues as new on every signal."""
    signaled = has(events, E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
    return [command("continue_as_new_workflow_execution")] if signaled else []


MODELS: dict[str, Decide] = {"parent": parent, "quick": quick, "patient": patient, "restless": restless}


async def start(client: Client, workflow_id: str, workflow_type: str) -> None:
    """Start a model workflow, however often it takes."""
    request = StartWorkflowExecutionRequest(
        namespace="default", workflow_id=workflow_id, workflow_type=WorkflowType(name=workflow_type), task_queue=TaskQueue(name=QUEUE),
        workflow_task_timeout=TASK_TIMEOUT, request_id=workflow_id,
    )  # fmt: skip
    while True:
        try:
            await client.workflow_service.start_workflow_execution(request, retry=False)
            return
        except RPCError as error:
            if error.status != RPCStatusCode.UNAVAILABLE:
                raise


async def work(client: Client) -> None:
    """Answer workflow tasks until canceled."""
    service = client.workflow_service
    while True:
        try:
            task = await service.poll_workflow_task_queue(
                PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=QUEUE), identity="model"), retry=False
            )
            if not task.task_token:
                continue
            decide = MODELS[task.workflow_type.name]
            commands = decide(task.workflow_execution.workflow_id, task.history.events)
            await service.respond_workflow_task_completed(
                RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands), retry=False
            )
        except RPCError as error:
            if error.status not in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise
            await asyncio.sleep(0)


async def history(client: Client, workflow_id: str, run_id: str = "") -> list[HistoryEvent]:
    """The events of a run (the current one without run id), however often it takes; none when there is no run."""
    request = GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), maximum_page_size=1000
    )
    while True:
        try:
            response = await client.workflow_service.get_workflow_execution_history(request, retry=False)
            return list(response.history.events)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return []
            if error.status != RPCStatusCode.UNAVAILABLE:
                raise


async def runs(client: Client, workflow_id: str) -> list[list[HistoryEvent]]:
    """The histories of all runs of a chain that continued as new, latest first."""
    found: list[list[HistoryEvent]] = []
    run_id = ""
    while True:
        events = await history(client, workflow_id, run_id)
        found.append(events)
        run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
        if not run_id:
            return found
