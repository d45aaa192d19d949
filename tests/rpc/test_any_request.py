"""Every RPC that has a handler, with requests of every kind: no answer says that the server is at fault, and the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, WorkflowExecutionStatus, WorkflowIdConflictPolicy
from temporalio.api.workflowservice import v1 as typed_api
from temporalio.client import Client
from temporalio.service import RPCError

from perdure.app import Server
from perdure.core.call import Method
from perdure.core.limits import Limits
from perdure.settings import ServerSettings
from tests.support.any_message import AnyMessage
from tests.support.requests import start
from tests.support.waiting import until

api: Any = typed_api
SEEDS = (1, 2)
ROUNDS = 3
AT_A_TIME = 40
PER_ROUND = 8
"""Requests of each RPC in a round."""

USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
ACTIVITY = {"activityId": "a", "activityType": {"name": "go"}, "taskQueue": {"name": "q"}, "startToCloseTimeout": "60s"}
OUR_FAULT = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}

IDS = [f"w{number}" for number in range(4)]
POOLS = {
    "namespace": ["default"], "workflow_id": IDS, "run_id": ["", ""], "id": ["1", "a"], "activity_id": ["a", "b"], "timer_id": ["t", "u"],
    "request_id": ["r", "s"], "name": ["q", "go"], "task_queue": ["q"], "signal_name": ["go"], "identity": ["me"], "update_id": ["u", "v"],
    "protocol_instance_id": ["u", "v"], "normal_name": ["q"], "first_execution_run_id": [""], "cron_schedule": ["", "", "@hourly"],
    "query_type": ["q", "__stack_trace"],
}  # fmt: skip
NAMESPACE_CHANGES = {"UpdateNamespace", "DeprecateNamespace", "DeleteNamespace"}


async def call(channel: grpc.aio.Channel, method: Method, request: Message) -> str | None:
    """What is wrong with the answer; None if nothing is."""
    timeout = 2.1 if method.name.startswith("Poll") else 0.5
    untyped: Any = channel
    try:
        await untyped.unary_unary(method.path)(request.SerializeToString(), timeout=timeout)
    except grpc.aio.AioRpcError as error:
        if error.code() in OUR_FAULT:
            return f"{method.name}: {error.code().name} {error.details()}\n{str(request)[:2_000]}"
    return None


async def make_tasks(client: Client, maker: AnyMessage) -> None:
    """Open runs with tasks in workers' hands, so that the requests meet something."""
    service = client.workflow_service
    for workflow_id in IDS:
        await start(client, workflow_id, task_queue={"name": "q"}, workflow_id_conflict_policy=USE_EXISTING)
    for _ in range(2 * len(IDS)):
        task = await service.poll_workflow_task_queue(api.PollWorkflowTaskQueueRequest(namespace="default", task_queue={"name": "q"}))
        if not task.task_token:
            break
        if maker.random.random() < 0.5:
            maker.tokens.append(task.task_token)
            maker.pools["run_id"] = ["", "", task.workflow_execution.run_id]
        else:
            command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
            ParseDict(ACTIVITY, command.schedule_activity_task_command_attributes)
            completed = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, commands=[command], namespace="default")
            with contextlib.suppress(RPCError):  # what came before may have left the run without room for one
                await service.respond_workflow_task_completed(completed)
    for _ in IDS:
        activity = await service.poll_activity_task_queue(api.PollActivityTaskQueueRequest(namespace="default", task_queue={"name": "q"}))
        if not activity.task_token:
            break
        maker.tokens.append(activity.task_token)
    del maker.tokens[:-20]


async def assert_works(client: Client) -> None:
    """A workflow from its start to its end."""
    await start(client, "after all", task_queue={"name": "another"})
    poll = api.PollWorkflowTaskQueueRequest(namespace="default", task_queue={"name": "another"})
    task = await until(lambda: client.workflow_service.poll_workflow_task_queue(poll))
    command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.SetInParent()
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, commands=[command], namespace="default")
    )
    described = await client.workflow_service.describe_workflow_execution(
        api.DescribeWorkflowExecutionRequest(namespace="default", execution={"workflow_id": "after all"})
    )
    assert described.workflow_execution_info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED


@pytest.fixture
async def server(database: str) -> AsyncIterator[Server]:
    """One whose polls do not wait for long."""
    quick = {"matching.longPollExpirationInterval": "0.1s", "history.longPollExpirationInterval": "0.1s"}
    async with Server(
        ServerSettings(grpc_port=0, metrics_port=None, database=database, limits=Limits.from_dynamic_config(quick))
    ) as running:
        yield running


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("database", ["memory", "postgres"], indirect=True)
async def test_no_request_is_the_servers_fault(server: Server, client: Client, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    maker = AnyMessage(seed, {**POOLS})
    methods = [method for method in server.core.methods if method.handler is not None]
    wrong: list[str] = []
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        for _ in range(ROUNDS):
            await make_tasks(client, maker)
            requests = [(method, maker.make(method.request_type)) for method in methods for _ in range(PER_ROUND)]
            for method, request in requests:
                if method.name in NAMESPACE_CHANGES and getattr(request, "namespace", "") == "default":
                    untyped: Any = request
                    untyped.namespace = "spare"
            maker.random.shuffle(requests)
            for begin in range(0, len(requests), AT_A_TIME):
                batch = requests[begin : begin + AT_A_TIME]
                wrong.extend(filter(None, await asyncio.gather(*(call(channel, method, request) for method, request in batch))))
    await assert_works(client)
    bugs = [record.getMessage() + (record.exc_text or "") for record in caplog.records if record.levelno >= logging.ERROR]
    assert not wrong, "\n\n".join(wrong)
    assert not bugs, "\n".join(bugs)
