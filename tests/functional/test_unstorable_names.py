"""PostgreSQL keeps no U+0000 in text: ids and names with it are refused before they reach a store, on every store."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, IndexedValueType, WorkflowTaskFailedCause
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice import v1 as typed_api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.app import Server
from perdure.core.call import WORKFLOW_SERVICE
from perdure.features.workflow.tokens import TaskToken, encode_token
from tests.support.requests import describe, events, execution, poll, signal, start, start_request, terminate

BAD = "a\0b"
api: Any = typed_api
Cause = WorkflowTaskFailedCause

REQUESTS: list[tuple[str, Any, str]] = [
    ("start_workflow_execution", start_request(BAD), "workflow_id"),
    ("start_workflow_execution", start_request("w", workflow_type={"name": BAD}), "workflow_type.name"),
    ("start_workflow_execution", start_request("w", task_queue={"name": BAD}), "task_queue.name"),
    ("start_workflow_execution", start_request("w", request_id=BAD), "request_id"),
    (
        "signal_with_start_workflow_execution",
        api.SignalWithStartWorkflowExecutionRequest(
            namespace="default", workflow_id=BAD, workflow_type={"name": "Flow"}, task_queue={"name": "q"}, signal_name="s"
        ),
        "workflow_id",
    ),
    (
        "execute_multi_operation",
        api.ExecuteMultiOperationRequest(
            namespace="default", operations=[api.ExecuteMultiOperationRequest.Operation(start_workflow=start_request(BAD))]
        ),
        "operations.start_workflow.workflow_id",
    ),
    ("describe_workflow_execution", api.DescribeWorkflowExecutionRequest(namespace="default", execution=execution(BAD)), "workflow_id"),
    (
        "signal_workflow_execution",
        api.SignalWorkflowExecutionRequest(namespace="default", workflow_execution=execution("w", BAD), signal_name="s"),
        "workflow_execution.run_id",
    ),
    ("list_workflow_executions", api.ListWorkflowExecutionsRequest(namespace="default", query=f"WorkflowId = '{BAD}'"), "query"),
    ("register_namespace", api.RegisterNamespaceRequest(namespace=BAD), "namespace"),
    ("describe_namespace", api.DescribeNamespaceRequest(id=BAD), "id"),
]


@pytest.mark.parametrize(("method", "request_message", "field"), REQUESTS, ids=[f"{method}.{field}" for method, _, field in REQUESTS])
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_request_is_refused(client: Client, method: str, request_message: Any, field: str) -> None:
    if method == "register_namespace":
        request_message.workflow_execution_retention_period.FromSeconds(86_400)
    with pytest.raises(RPCError, match="holds the character U\\+0000, which no id, name or query can have") as raised:
        await getattr(client.workflow_service, method)(request_message)
    assert raised.value.status == RPCStatusCode.INVALID_ARGUMENT
    assert field in raised.value.message


async def test_texts_that_are_no_names_may_hold_anything(client: Client) -> None:
    """Payloads, memos, search attributes, reasons, identities and summaries are stored as bytes or escaped."""
    data = {"metadata": {"encoding": b"json/plain"}, "data": b'"a\\u0000b"'}
    keyword = AddSearchAttributesRequest(namespace="default", search_attributes={"Word": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD})
    await client.operator_service.add_search_attributes(keyword)
    await start(
        client, "w", identity=BAD, memo={"fields": {BAD: data}}, input={"payloads": [{"data": BAD.encode()}]},
        header={"fields": {BAD: data}}, search_attributes={"indexed_fields": {"Word": data}}, user_metadata={"summary": data},
    )  # fmt: skip
    await signal(client, "w", identity=BAD, control=BAD)
    await terminate(client, "w", reason=BAD, identity=BAD)
    assert (await events(client, "w"))[-1].workflow_execution_terminated_event_attributes.reason == BAD
    info = (await describe(client, "w")).workflow_execution_info
    assert info.memo.fields[BAD].data == info.search_attributes.indexed_fields["Word"].data == data["data"]


def _command(kind: str, **attributes: Any) -> Command:
    field = f"{kind}_command_attributes"
    untyped: Any = Command
    return untyped(command_type=CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"), **{field: attributes})


COMMANDS = [
    (
        _command("start_child_workflow_execution", workflow_id=BAD, workflow_type={"name": "t"}, task_queue={"name": "q"}),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    (
        _command("start_child_workflow_execution", workflow_id="c", workflow_type={"name": BAD}, task_queue={"name": "q"}),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    (
        _command("start_child_workflow_execution", workflow_id="c", workflow_type={"name": "t"}, task_queue={"name": BAD}),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES,
    ),
    (
        _command("signal_external_workflow_execution", namespace="default", execution=execution(BAD), signal_name="s"),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ),
    (
        _command("request_cancel_external_workflow_execution", namespace="default", workflow_id=BAD),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES,
    ),
    (
        _command("continue_as_new_workflow_execution", workflow_type={"name": BAD}, task_queue={"name": "q"}),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES,
    ),
    (
        _command("continue_as_new_workflow_execution", workflow_type={"name": "t"}, task_queue={"name": BAD}),
        Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES,
    ),
]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_command_fails_its_task(client: Client) -> None:
    """The workflow says why it does not go on; a refused request would leave it silent."""
    for number, (command, cause) in enumerate(COMMANDS):
        workflow_id, queue = f"w{number}", {"name": f"q{number}"}
        await start(client, workflow_id, task_queue=queue)
        task = await poll(client, task_queue=queue)
        with pytest.raises(RPCError, match="U\\+0000"):
            await client.workflow_service.respond_workflow_task_completed(
                api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=[command])
            )
        failed = (await events(client, workflow_id))[3]
        assert failed.workflow_task_failed_event_attributes.cause == cause
        assert "U+0000" in failed.workflow_task_failed_event_attributes.failure.message


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_ids_that_a_workflow_keeps_to_itself_may_hold_it(client: Client) -> None:
    """Timers and activities are found in the state, never by a column."""
    await start(client, "w")
    task = await poll(client)
    commands = [
        _command("start_timer", timer_id=BAD, start_to_fire_timeout={"seconds": 60}),
        _command("schedule_activity_task", activity_id=BAD, activity_type={"name": BAD}, task_queue={"name": "q"},
                 start_to_close_timeout={"seconds": 60}),
    ]  # fmt: skip
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands)
    )
    activity = await client.workflow_service.poll_activity_task_queue(
        api.PollActivityTaskQueueRequest(namespace="default", task_queue={"name": "q"})
    )
    assert activity.activity_id == BAD
    await client.workflow_service.record_activity_task_heartbeat(
        api.RecordActivityTaskHeartbeatRequest(namespace="default", task_token=activity.task_token, details={"payloads": [{"data": b"\0"}]})
    )
    await terminate(client, "w")


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_forged_task_token(server: Server) -> None:
    namespace = server.core.namespaces.by_name("default")
    assert namespace is not None
    token = encode_token(TaskToken(namespace.id, BAD, "11111111-1111-4111-8111-111111111111", 2, 1, 3))
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        for name in (
            "RespondWorkflowTaskCompleted",
            "RespondActivityTaskCompleted",
            "RecordActivityTaskHeartbeat",
            "RespondQueryTaskCompleted",
        ):
            request = server.core.methods.get(name).request_type(namespace="default", task_token=token)
            untyped: Any = channel
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await untyped.unary_unary(f"/{WORKFLOW_SERVICE}/{name}")(request.SerializeToString(), timeout=10)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, raised.value
