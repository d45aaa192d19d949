"""A client's and a worker's side of an update, call by call."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message as ProtoMessage
from temporalio.api.command.v1 import Command, ProtocolMessageCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Input, Meta, Outcome, Rejection, Request, Response, UpdateRef, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    PollWorkflowExecutionUpdateRequest,
    PollWorkflowExecutionUpdateResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)

from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, payloads

ADMITTED, ACCEPTED, COMPLETED = 1, 2, 3
Outgoing = tuple[Message, Command]


def update_request(update_id: str, stage: int = COMPLETED, **more: Any) -> UpdateWorkflowExecutionRequest:
    return UpdateWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=WORKFLOW_ID),
        wait_policy=WaitPolicy(lifecycle_stage=stage),  # pyright: ignore[reportArgumentType]
        request=Request(meta=Meta(update_id=update_id, identity="client"), input=Input(name="update", args=payloads("1")), **more),
    )  # fmt: skip


def update(server: VirtualServer, update_id: str, stage: int = COMPLETED, **more: Any) -> asyncio.Task[UpdateWorkflowExecutionResponse]:
    """The call, under way."""
    return asyncio.create_task(server.call("UpdateWorkflowExecution", update_request(update_id, stage, **more), 60))


async def poll_update(server: VirtualServer, update_id: str, stage: int = COMPLETED) -> PollWorkflowExecutionUpdateResponse:
    reference = UpdateRef(workflow_execution=WorkflowExecution(workflow_id=WORKFLOW_ID), update_id=update_id)
    policy = WaitPolicy(lifecycle_stage=stage)  # pyright: ignore[reportArgumentType]
    request = PollWorkflowExecutionUpdateRequest(namespace="default", update_ref=reference, wait_policy=policy)
    return await server.call("PollWorkflowExecutionUpdate", request, 60)


async def next_task(server: VirtualServer, timeout: float = 60) -> PollWorkflowTaskQueueResponse:
    """Without a token when there is none within so many seconds."""
    poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
    return await server.call("PollWorkflowTaskQueue", poll, timeout)


async def complete(
    server: VirtualServer, task: PollWorkflowTaskQueueResponse, *answers: Outgoing, **more: Any
) -> RespondWorkflowTaskCompletedResponse:
    """Answer a task with messages, each at its place among the commands."""
    commands = [*(command for _, command in answers), *more.pop("commands", ())]
    messages = [*(message for message, _ in answers), *more.pop("messages", ())]
    request = RespondWorkflowTaskCompletedRequest(
        namespace="default", task_token=task.task_token, identity="worker", commands=commands, messages=messages, **more
    )
    return await server.call("RespondWorkflowTaskCompleted", request)


async def idle(server: VirtualServer) -> None:
    """Start a workflow and complete its first task with nothing."""
    await server.start_workflow()
    await server.decide()


def accept(message: Message) -> Outgoing:
    body = Acceptance(
        accepted_request_message_id=message.id, accepted_request_sequencing_event_id=message.event_id, accepted_request=request_of(message)
    )
    return _outgoing(message, "accept", body)


def respond(message: Message, text: str = '"done"') -> Outgoing:
    return _outgoing(message, "respond", Response(meta=request_of(message).meta, outcome=Outcome(success=payloads(text))))


def reject(message: Message, text: str = "no") -> Message:
    failure = Failure(message=text, application_failure_info=ApplicationFailureInfo(type="No"))
    body = Rejection(
        rejected_request_message_id=message.id, rejected_request_sequencing_event_id=message.event_id, rejected_request=request_of(message),
        failure=failure,
    )  # fmt: skip
    return _outgoing(message, "reject", body)[0]


def request_of(message: Message) -> Request:
    return Request.FromString(message.body.value)


def _outgoing(message: Message, what: str, body: ProtoMessage) -> Outgoing:
    packed = Packed()
    packed.Pack(body)
    message_id = f"{message.protocol_instance_id}/{what}"
    command = Command(
        command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE,
        protocol_message_command_attributes=ProtocolMessageCommandAttributes(message_id=message_id),
    )
    return Message(id=message_id, protocol_instance_id=message.protocol_instance_id, body=packed), command


async def event_types(server: VirtualServer) -> list[str]:
    """The history of the current run without the workflow tasks of its beginning: ``WORKFLOW_TASK_SCHEDULED`` and so on."""
    names = [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in await server.history()]
    return names[4:]
