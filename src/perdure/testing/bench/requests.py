"""The messages of a one-activity workflow."""

from __future__ import annotations

import uuid

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, Payload, Payloads, WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest

NAMESPACE = "default"
IDENTITY = "perdure-bench"
PAYLOADS = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')])


def start_request(workflow_id: str, queue: TaskQueue) -> StartWorkflowExecutionRequest:
    """Starts a one-activity run."""
    return StartWorkflowExecutionRequest(
        namespace=NAMESPACE, workflow_id=workflow_id, workflow_type=WorkflowType(name="BenchWorkflow"), task_queue=queue, input=PAYLOADS,
        identity=IDENTITY, request_id=uuid.uuid4().hex,
    )  # fmt: skip


def schedule_command(queue: TaskQueue) -> Command:
    """Schedules the activity."""
    command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = "1"
    attributes.activity_type.CopyFrom(ActivityType(name="bench_activity"))
    attributes.task_queue.CopyFrom(queue)
    attributes.input.CopyFrom(PAYLOADS)
    attributes.start_to_close_timeout.FromSeconds(60)
    return command


def complete_command() -> Command:
    """Completes the run."""
    command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.result.CopyFrom(PAYLOADS)
    return command
