"""E4: what others do to a workflow: signal, cancel, terminate, delete."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import Link, WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from perdure.app import Server
from perdure.core.limits import Limits
from perdure.settings import ServerSettings
from tests.support.requests import describe, events, execution, names, payloads, poll, signal, start, terminate
from tests.support.waiting import until

UNKNOWN_RUN = "11111111-2222-4333-8444-555555555555"
LINK = Link(workflow_event=Link.WorkflowEvent(namespace="default", workflow_id="other", run_id=UNKNOWN_RUN))


async def refused(call: Any) -> tuple[RPCStatusCode, str]:
    with pytest.raises(RPCError) as caught:
        await call
    return caught.value.status, caught.value.message


async def test_a_signal_is_recorded_once_per_request_id(client: Client) -> None:
    first = await start(client, "w")
    for _ in range(2):
        response = await signal(client, "w", request_id="r", input=payloads(1), links=[LINK])
        assert response.link.workflow_event.request_id_ref.request_id == "r"
        assert response.link.workflow_event.run_id == first.run_id
    task = await poll(client)
    await signal(client, "w", request_id="r")
    await signal(client, "w", request_id="s")
    infos = (await describe(client, "w")).workflow_extended_info.request_id_infos
    assert infos["r"].event_id == 3
    assert infos["s"].buffered
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
    )
    assert names(await events(client, "w")).count("WORKFLOW_EXECUTION_SIGNALED") == 2
    assert (await describe(client, "w")).workflow_extended_info.request_id_infos["s"].event_id == 6
    await terminate(client, "w")
    await signal(client, "w", request_id="r")  # the caller of a repeated request cannot know that the run has closed since
    assert await refused(signal(client, "w", request_id="t")) == (RPCStatusCode.NOT_FOUND, "workflow execution already completed")


async def test_a_run_takes_so_many_signals_and_no_more() -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database="", limits=Limits(signals_per_execution=2))
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        await start(client, "w")
        for _ in range(2):
            await signal(client, "w")
        assert await refused(signal(client, "w")) == (
            RPCStatusCode.INVALID_ARGUMENT, "exceeded workflow execution limit for signal events",
        )  # fmt: skip


async def test_only_the_first_cancel_request_counts(client: Client) -> None:
    run_id = (await start(client, "w")).run_id
    for number in range(2):
        request = api.RequestCancelWorkflowExecutionRequest(
            namespace="default", workflow_execution=execution("w"), reason=f"reason {number}", first_execution_run_id=run_id, links=[LINK]
        )
        await client.workflow_service.request_cancel_workflow_execution(request)
    found = await events(client, "w")
    assert names(found)[2:] == ["WORKFLOW_EXECUTION_CANCEL_REQUESTED"]
    assert found[2].workflow_execution_cancel_requested_event_attributes.cause == "reason 0"
    await terminate(client, "w")
    await client.get_workflow_handle("w").cancel()


async def test_a_first_run_id_keeps_callers_from_another_chain(client: Client) -> None:
    await start(client, "w")
    wrong = {"first_execution_run_id": UNKNOWN_RUN}
    assert await refused(terminate(client, "w", **wrong)) == (RPCStatusCode.NOT_FOUND, "workflow execution not found")
    cancel = api.RequestCancelWorkflowExecutionRequest(
        namespace="default", workflow_execution=execution("w"), first_execution_run_id=UNKNOWN_RUN
    )
    assert (await refused(client.workflow_service.request_cancel_workflow_execution(cancel)))[0] == RPCStatusCode.NOT_FOUND
    assert names(await events(client, "w")) == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED"]


async def test_a_termination_says_who_and_why(client: Client) -> None:
    await start(client, "w")
    await poll(client)
    await signal(client, "w")
    await terminate(client, "w", details=payloads("detail"), links=[LINK])
    found = await events(client, "w")
    assert names(found)[3:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_EXECUTION_TERMINATED"]
    attributes = found[-1].workflow_execution_terminated_event_attributes
    assert (attributes.reason, attributes.identity) == ("terminated by user via frontend", "frontend-service")
    assert attributes.details == payloads("detail")
    assert list(found[-1].links) == [LINK]


@pytest.mark.parametrize("closed", [True, False])
async def test_a_deleted_run_is_gone_with_everything(client: Client, closed: bool) -> None:
    run_id = (await start(client, "w", request_id="r")).run_id
    if closed:
        await terminate(client, "w")
    delete = api.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution("w", run_id))
    await client.workflow_service.delete_workflow_execution(delete)
    assert await refused(describe(client, "w")) == (RPCStatusCode.NOT_FOUND, "workflow not found for ID: w")
    assert (await refused(events(client, "w", run_id)))[0] == RPCStatusCode.NOT_FOUND
    assert (await refused(client.workflow_service.delete_workflow_execution(delete)))[0] == RPCStatusCode.NOT_FOUND
    assert [run async for run in client.list_workflows()] == []
    # Nothing remembers the run: its id and even its request id are free.
    assert (await start(client, "w", request_id="r", workflow_id_reuse_policy=3)).run_id != run_id


async def test_a_deleted_run_takes_its_children_along(client: Client) -> None:
    await start(client, "w")
    child = StartChildWorkflowExecutionCommandAttributes(
        workflow_id="child", workflow_type=WorkflowType(name="Child"), task_queue=TaskQueue(name="nobody")
    )
    start_child = Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, start_child_workflow_execution_command_attributes=child
    )
    task = await poll(client)
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=[start_child])
    )

    async def child_is(status: WorkflowExecutionStatus) -> bool:
        try:
            return (await client.get_workflow_handle("child").describe()).status == status
        except RPCError:
            return False

    await until(lambda: child_is(WorkflowExecutionStatus.RUNNING))
    await client.workflow_service.delete_workflow_execution(
        api.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution("w"))
    )
    await until(lambda: child_is(WorkflowExecutionStatus.TERMINATED))
    assert (await refused(describe(client, "w")))[0] == RPCStatusCode.NOT_FOUND


async def test_a_deleted_run_takes_its_task_along(client: Client) -> None:
    await start(client, "w")
    task = await poll(client)
    await client.workflow_service.delete_workflow_execution(
        api.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution("w"))
    )
    answer = api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
    assert (await refused(client.workflow_service.respond_workflow_task_completed(answer)))[0] == RPCStatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workflow_execution": None}, "Execution is not set on request."),
        ({"workflow_execution": execution("")}, "WorkflowId is not set on request."),
        ({"workflow_execution": execution("w", "no-uuid")}, "Invalid RunId."),
        ({"signal_name": ""}, "SignalName is not set on request."),
        ({"signal_name": "x" * 1001}, "SignalName length exceeds limit."),
        ({"request_id": "x" * 1001}, "RequestId length exceeds limit."),
        ({"input": payloads("x" * 2 * 1024 * 1024)}, "Blob data size exceeds limit."),
        ({"links": [Link()]}, "unsupported link variant"),
    ],
)
async def test_signals_that_make_no_sense_are_refused(client: Client, fields: dict[str, Any], message: str) -> None:
    await start(client, "w")
    assert await refused(signal(client, "w", **fields)) == (
        RPCStatusCode.INVALID_ARGUMENT, message,
    )  # fmt: skip


async def test_closed_runs_are_described_by_their_run_id(client: Client) -> None:
    first = (await start(client, "w")).run_id
    await terminate(client, "w")
    second = (await start(client, "w")).run_id
    assert (await describe(client, "w")).workflow_execution_info.execution.run_id == second
    old = await client.get_workflow_handle("w", run_id=first).describe()
    assert old.status == WorkflowExecutionStatus.TERMINATED
    assert old.close_time is not None
