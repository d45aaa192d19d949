"""Calls about resets, and about workflows that have children, for tests that are their own worker."""

from __future__ import annotations

import uuid
from typing import Any

from temporalio.api.command.v1 import (
    Command,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
)
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as service

from tests.support.task_calls import complete, complete_workflow, poll
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer

CHILDREN = TaskQueue(name="children")
CHILD_ID = "child"
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
TERMINATED = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED
CHILD_STARTED = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED


async def reset(server: VirtualServer, event_id: int, run_id: str = "", **more: Any) -> str:
    """Reset the workflow; returns the id of the new run. run_id: "" for the current run."""
    fields: dict[str, Any] = {"request_id": str(uuid.uuid4()), "reason": "again", **more}
    request = service.ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=WORKFLOW_ID, run_id=run_id),
        workflow_task_finish_event_id=event_id, **fields,
    )  # fmt: skip
    return (await server.call("ResetWorkflowExecution", request)).run_id


def start_child(workflow_id: str = CHILD_ID, **attributes: Any) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
        start_child_workflow_execution_command_attributes=StartChildWorkflowExecutionCommandAttributes(
            workflow_id=workflow_id, workflow_type=WorkflowType(name="Child"), task_queue=CHILDREN, **attributes
        ),
    )


def signal_child(workflow_id: str = CHILD_ID) -> Command:
    """Refused by whoever is not a child of the sender."""
    return Command(
        command_type=CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
        signal_external_workflow_execution_command_attributes=SignalExternalWorkflowExecutionCommandAttributes(
            execution=WorkflowExecution(workflow_id=workflow_id), signal_name="hello", child_workflow_only=True
        ),
    )


def continue_as_new() -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=ContinueAsNewWorkflowExecutionCommandAttributes(
            workflow_type=WorkflowType(name="Workflow"), task_queue=QUEUE
        ),
    )


async def history(server: VirtualServer, run_id: str = "", workflow_id: str = WORKFLOW_ID) -> list[HistoryEvent]:
    request = service.GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    )
    return list((await server.call("GetWorkflowExecutionHistory", request)).history.events)


async def event_of(server: VirtualServer, event_type: EventType.ValueType, run_id: str = "") -> HistoryEvent:
    """The first event of that type, once there is one."""
    for _ in range(1_000):
        found = [event for event in await history(server, run_id) if event.event_type == event_type]
        if found:
            return found[0]
        await server.pass_time(0.01)
    raise AssertionError(f"no {EventType.Name(event_type)}")


async def describe(server: VirtualServer, workflow_id: str = WORKFLOW_ID, run_id: str = "") -> service.DescribeWorkflowExecutionResponse:
    request = service.DescribeWorkflowExecutionRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    )
    return await server.call("DescribeWorkflowExecution", request)


async def status(server: VirtualServer, workflow_id: str = WORKFLOW_ID, run_id: str = "") -> WorkflowExecutionStatus.ValueType:
    return (await describe(server, workflow_id, run_id)).workflow_execution_info.status


async def complete_child(server: VirtualServer) -> None:
    """The next task of a child ends it."""
    task = await poll(server, CHILDREN)
    assert task.task_token, "no child has a task"
    await complete(server, task, complete_workflow())
