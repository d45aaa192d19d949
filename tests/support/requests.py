"""Requests of the raw API, with the fields that every test needs filled in."""

from __future__ import annotations

import json
import uuid
from typing import Any

from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

QUEUE = "queue"


def payload(value: object) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


def payloads(*values: object) -> Payloads:
    return Payloads(payloads=[payload(value) for value in values])


def execution(workflow_id: str, run_id: str = "") -> WorkflowExecution:
    return WorkflowExecution(workflow_id=workflow_id, run_id=run_id)


def start_request(workflow_id: str, **fields: Any) -> api.StartWorkflowExecutionRequest:
    defaults: dict[str, Any] = {
        "namespace": "default",
        "workflow_id": workflow_id,
        "workflow_type": {"name": "Flow"},
        "task_queue": {"name": QUEUE},
        "identity": "starter",
        "request_id": str(uuid.uuid4()),
    }
    return api.StartWorkflowExecutionRequest(**{**defaults, **fields})


async def start(client: Client, workflow_id: str, **fields: Any) -> api.StartWorkflowExecutionResponse:
    return await client.workflow_service.start_workflow_execution(start_request(workflow_id, **fields))


async def signal(client: Client, workflow_id: str, name: str = "go", **fields: Any) -> api.SignalWorkflowExecutionResponse:
    defaults: dict[str, Any] = {"namespace": "default", "workflow_execution": execution(workflow_id), "signal_name": name}
    request = api.SignalWorkflowExecutionRequest(**{**defaults, **fields})
    return await client.workflow_service.signal_workflow_execution(request)


async def terminate(client: Client, workflow_id: str, **fields: Any) -> None:
    defaults: dict[str, Any] = {"namespace": "default", "workflow_execution": execution(workflow_id)}
    request = api.TerminateWorkflowExecutionRequest(**{**defaults, **fields})
    await client.workflow_service.terminate_workflow_execution(request)


async def describe(client: Client, workflow_id: str, run_id: str = "") -> api.DescribeWorkflowExecutionResponse:
    request = api.DescribeWorkflowExecutionRequest(namespace="default", execution=execution(workflow_id, run_id))
    return await client.workflow_service.describe_workflow_execution(request)


async def events(client: Client, workflow_id: str, run_id: str = "") -> list[HistoryEvent]:
    """The whole history, page by page."""
    found: list[HistoryEvent] = []
    token = b""
    while True:
        request = api.GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=execution(workflow_id, run_id), next_page_token=token
        )
        response = await client.workflow_service.get_workflow_execution_history(request)
        found.extend(response.history.events)
        token = response.next_page_token
        if not token:
            return found


def names(found: list[HistoryEvent]) -> list[str]:
    """What happened: ``WORKFLOW_EXECUTION_STARTED`` …"""
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in found]


async def poll(client: Client, **fields: Any) -> api.PollWorkflowTaskQueueResponse:
    """One workflow task; empty when there is none before the deadline."""
    defaults: dict[str, Any] = {"namespace": "default", "task_queue": {"name": QUEUE}, "identity": "worker"}
    request = api.PollWorkflowTaskQueueRequest(**{**defaults, **fields})
    return await client.workflow_service.poll_workflow_task_queue(request)
