"""Limits, each on both sides: what just fits is taken, one more is refused in the official words. Set by their official keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Callback, Link, Memo, Payload, Payloads
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.enums.v1 import WorkflowTaskFailedCause as Cause
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.core.clock import SECOND, to_duration
from perdure.core.limits import Limits
from tests.support.inspected import inspected_server
from tests.support.requests import describe, events, execution, payload, payloads, poll, signal, start, terminate

Send = Callable[[Client, Any], Awaitable[Any]]
INVALID = RPCStatusCode.INVALID_ARGUMENT
RUN_ID = "11111111-1111-4111-8111-111111111111"


def sized(size: int) -> Payloads:
    """Payloads whose encoding has so many bytes."""
    filled = Payloads(payloads=[Payload(data=b"x" * (size - 4))])
    assert filled.ByteSize() == size
    return filled


def sized_memo(size: int) -> Memo:
    memo = Memo(fields={"k": Payload(data=b"x" * (size - 9))})
    assert memo.ByteSize() == size
    return memo


def link(workflow_id: str = "other") -> Link:
    return Link(workflow_event=Link.WorkflowEvent(namespace="default", workflow_id=workflow_id, run_id=RUN_ID))


def callback(**fields: Any) -> Callback:
    fields = {"url": "http://localhost:1/", **fields}
    return Callback(nexus=Callback.Nexus(**fields))


def starts(name: str) -> Send:
    """A start with one field set to the value; a workflow id of its own unless that is the field."""

    async def send(client: Client, value: Any) -> None:
        fields = {name: value}
        await start(client, fields.pop("workflow_id", str(uuid.uuid4())), **fields)

    return send


def signals(name: str) -> Send:
    async def send(client: Client, value: Any) -> None:
        fields = {name: value}
        await start(client, "w", workflow_id_conflict_policy=2)
        await signal(client, "w", fields.pop("name", "go"), **fields)

    return send


async def updates_nothing(client: Client, request: dict[str, Any]) -> None:
    await start(client, "w", workflow_id_conflict_policy=2)
    task = await poll(client)
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, **request)
    )


@dataclass(frozen=True)
class Case:
    """fits, not_any_more: values that `send` gets, in this order, on one server."""

    key: str
    limit: int
    send: Send
    fits: Any
    not_any_more: Any
    message: str
    status: RPCStatusCode = INVALID


WORD = "w" * 40
"""As long as an id may be; random request ids have 36 characters."""
LINK_SIZE = link("o" * 10).ByteSize()

REQUESTS = {
    "workflow id": Case(
        "limit.maxIDLength", 40, starts("workflow_id"), WORD, WORD + "x",
        "WorkflowId exceeds maximum allowed length (41/40)"),
    "workflow type": Case(
        "limit.maxIDLength", 40, starts("workflow_type"), {"name": WORD}, {"name": WORD + "x"}, "WorkflowType length exceeds limit."
    ),
    "task queue": Case("limit.maxIDLength", 40, starts("task_queue"), {"name": WORD}, {"name": WORD + "x"},
        "taskQueue length exceeds limit"),
    "start request id": Case("limit.maxIDLength", 40, starts("request_id"), WORD, WORD + "x", "RequestId length exceeds limit."),
    "signal name": Case("limit.maxIDLength", 40, signals("name"), WORD, WORD + "x", "SignalName length exceeds limit."),
    "signal request id": Case("limit.maxIDLength", 40, signals("request_id"), WORD, WORD + "x", "RequestId length exceeds limit."),
    "start input": Case("limit.blobSize.error", 100, starts("input"), sized(100), sized(101), "Blob data size exceeds limit."),
    "signal input": Case("limit.blobSize.error", 100, signals("input"), sized(100), sized(101), "Blob data size exceeds limit."),
    "memo": Case("limit.memoSize.error", 100, starts("memo"), sized_memo(100), sized_memo(101), "Memo size exceeds limit."),
    "search attributes": Case(
        "frontend.searchAttributesNumberOfKeysLimit", 1, starts("search_attributes"),
        {"indexed_fields": {"CustomKeywordField": payload("a")}},
        {"indexed_fields": {"CustomKeywordField": payload("a"), "CustomIntField": payload(1)}},
        "number of search attributes 2 exceeds limit 1",
    ),
    "search attribute value": Case(
        "frontend.searchAttributesSizeOfValueLimit", 10, starts("search_attributes"),
        {"indexed_fields": {"CustomKeywordField": payload("v" * 8)}}, {"indexed_fields": {"CustomKeywordField": payload("v" * 9)}},
        "search attribute CustomKeywordField value size 11 exceeds size limit 10",
    ),
    "links": Case(
        "frontend.maxlinksPerRequest", 2, starts("links"), [link()] * 2, [link()] * 3,
        "cannot attach more than 2 links per request, got 3",
    ),
    "link": Case(
        "frontend.linkMaxSize", LINK_SIZE, starts("links"), [link("o" * 10)], [link("o" * 11)],
        f"link exceeds allowed size of {LINK_SIZE}, got {LINK_SIZE + 1}",
    ),
    "callbacks": Case(
        "callback.maxPerExecution", 2, starts("completion_callbacks"), [callback()] * 2, [callback()] * 3,
        "cannot attach more than 2 callbacks to an execution",
    ),
    "callback url": Case(
        "frontend.callbackURLMaxLength", 20, starts("completion_callbacks"), [callback(url="http://localhost:1/a")],
        [callback(url="http://localhost:1/ab")], "invalid url: url length longer than max length allowed of 20",
    ),
    "callback header": Case(
        "frontend.callbackHeaderMaxLength", 4, starts("completion_callbacks"), [callback(header={"ab": "cd"})],
        [callback(header={"ab": "cde"})], "invalid header: header size longer than max allowed size of 4",
    ),
    "build id": Case(
        "limit.workerBuildIdSize", 40, updates_nothing, {"worker_version_stamp": {"build_id": WORD}},
        {"worker_version_stamp": {"build_id": WORD + "x"}, "force_create_new_workflow_task": True},
        "Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_that_is_too_much_is_refused(name: str) -> None:
    case = REQUESTS[name]
    attributes = {"CustomKeywordField": "Keyword", "CustomIntField": "Int"}
    async with inspected_server(limits=Limits.from_dynamic_config({case.key: case.limit}), search_attributes=attributes) as server:
        client = await Client.connect(server.grpc_address)
        await case.send(client, case.fits)
        if name == "build id":
            await signal(client, "w")  # another task
        with pytest.raises(RPCError) as refused:
            await case.send(client, case.not_any_more)
        assert (refused.value.status, refused.value.message) == (case.status, case.message)


# -- commands --------------------------------------------------------------------------------------------------
def command(name: str, **attributes: Any) -> Command:
    field_name = f"{name}_command_attributes"
    return Command(command_type=CommandType.Value(f"COMMAND_TYPE_{name.upper()}"), **{field_name: attributes})  # type: ignore[arg-type]  # pyright: ignore


def activity(number: int = 0, **more: Any) -> Command:
    fields: dict[str, Any] = {"activity_id": f"a{number}", "start_to_close_timeout": to_duration(SECOND), "task_queue": {"name": "nobody"}}
    return command("schedule_activity_task", activity_type={"name": "Act"}, **{**fields, **more})


def child(number: int = 0, **more: Any) -> Command:
    fields: dict[str, Any] = {"workflow_id": f"c{number}", "workflow_type": {"name": "Child"}, "task_queue": {"name": "nobody"}}
    return command("start_child_workflow_execution", **{**fields, **more})


def other_signal(number: int = 0, **more: Any) -> Command:
    target = execution(f"gone{number}")
    return command("signal_external_workflow_execution", execution=target, **{"signal_name": "s", **more})


def other_cancel(number: int = 0) -> Command:
    return command("request_cancel_external_workflow_execution", workflow_id=f"gone{number}")


def marker(details: Payloads) -> Command:
    return command("record_marker", marker_name="m", details={"d": details})


@dataclass(frozen=True)
class Refusal:
    """A task with `commands` fails with a cause and a message, or (ends) ends the run; one with `fits` does not."""

    key: str
    limit: int
    fits: list[Command]
    commands: list[Command]
    cause: str
    message: str
    ends: bool = False


def pending(key: str, make: Callable[[int], Command], cause: str, what: str) -> Refusal:
    message = f"the number of {what}, 2, has reached the per-workflow limit of 2"
    return Refusal(key, 2, [make(n) for n in range(2)], [make(n) for n in range(3)], f"{cause}_LIMIT_EXCEEDED", message)


COMMANDS = {
    "activities": pending("limit.numPendingActivities.error", activity, "PENDING_ACTIVITIES", "pending activities"),
    "children": pending(
        "limit.numPendingChildExecutions.error", child, "PENDING_CHILD_WORKFLOWS", "pending child workflow executions"
    ),
    "signals": pending("limit.numPendingSignals.error", other_signal, "PENDING_SIGNALS", "pending signals to external workflows"),
    "cancels": pending(
        "limit.numPendingCancelRequests.error", other_cancel, "PENDING_REQUEST_CANCEL", "pending requests to cancel external workflows"
    ),
    "activity id": Refusal(
        "limit.maxIDLength", 40, [activity(activity_id=WORD)], [activity(activity_id=WORD + "x")], "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES",
        "activityId exceeds length limit. Length=41 Limit=40",
    ),
    "activity input": Refusal(
        "limit.blobSize.error", 100, [activity(input=sized(100))], [activity(input=sized(101))], "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES",
        "ScheduleActivityTaskCommandAttributes.Input exceeds size limit.", ends=True,
    ),
    "child input": Refusal(
        "limit.blobSize.error", 100, [child(input=sized(100))], [child(input=sized(101))], "BAD_START_CHILD_EXECUTION_ATTRIBUTES",
        "StartChildWorkflowExecutionCommandAttributes. Input exceeds size limit.", ends=True,
    ),
    "child memo": Refusal(
        "limit.memoSize.error", 100, [child(memo=sized_memo(100))], [child(memo=sized_memo(101))],
        "BAD_START_CHILD_EXECUTION_ATTRIBUTES", "StartChildWorkflowExecutionCommandAttributes.Memo exceeds size limit.", ends=True,
    ),
    "signal input": Refusal(
        "limit.blobSize.error", 100, [other_signal(input=sized(100))], [other_signal(input=sized(101))],
        "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES", "SignalExternalWorkflowExecutionCommandAttributes.Input exceeds size limit.", ends=True,
    ),
    "marker": Refusal(
        "limit.blobSize.error", 101, [marker(sized(100))], [marker(sized(101))], "BAD_RECORD_MARKER_ATTRIBUTES",
        "RecordMarkerCommandAttributes.Details exceeds size limit.", ends=True,
    ),
    "memo": Refusal(
        "limit.memoSize.error", 100, [command("modify_workflow_properties", upserted_memo=sized_memo(80))],
        [command("modify_workflow_properties", upserted_memo=sized_memo(120))], "BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES",
        "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size limit.", ends=True,
    ),
    "continue as new": Refusal(
        "limit.blobSize.error", 100, [command("continue_as_new_workflow_execution", input=sized(100))],
        [command("continue_as_new_workflow_execution", input=sized(101))], "BAD_CONTINUE_AS_NEW_ATTRIBUTES",
        "ContinueAsNewWorkflowExecutionCommandAttributes. Input exceeds size limit.", ends=True,
    ),
    "result": Refusal(
        "limit.blobSize.error", 100, [command("complete_workflow_execution", result=sized(100))],
        [command("complete_workflow_execution", result=sized(101))],
        "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES",  # the official server's mistake, which clients see
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.", ends=True,
    ),
}  # fmt: skip


async def answer(client: Client, *commands: Command) -> None:
    task = await poll(client)
    request = api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands)
    await client.workflow_service.respond_workflow_task_completed(request)


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_that_is_too_much_is_refused(name: str) -> None:
    case = COMMANDS[name]
    async with inspected_server(limits=Limits.from_dynamic_config({case.key: case.limit})) as server:
        client = await Client.connect(server.grpc_address)
        await start(client, "fits")
        await answer(client, *case.fits)
        if name != "result":
            await terminate(client, "fits")
        await start(client, "w")
        with pytest.raises(RPCError) as refused:
            await answer(client, *case.commands)
        assert refused.value.status == INVALID
        assert refused.value.message.endswith(case.message)
        found = await events(client, "w")
        failed = next(e for e in found if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED).workflow_task_failed_event_attributes
        assert Cause.Name(failed.cause) == f"WORKFLOW_TASK_FAILED_CAUSE_{case.cause}"
        last = found[-1]
        assert (last.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED) == case.ends
        if case.ends:
            assert last.workflow_execution_terminated_event_attributes.reason.endswith(case.message)


# -- what is cut, not refused ------------------------------------------------------------------------------------
async def test_a_workflow_task_has_two_minutes_at_most() -> None:
    async with inspected_server() as server:
        client = await Client.connect(server.grpc_address)
        for seconds, expected in ((119, 119), (120, 120), (121, 120)):
            await start(client, f"w{seconds}", workflow_task_timeout=to_duration(seconds * SECOND))
            config = (await describe(client, f"w{seconds}")).execution_config
            assert config.default_workflow_task_timeout.seconds == expected


async def test_a_run_remembers_so_many_builds() -> None:
    async with inspected_server(limits=Limits.from_dynamic_config({"history.historyMaxAutoResetPoints": 2})) as server:
        client = await Client.connect(server.grpc_address)
        await start(client, "w")
        for number in range(4):
            await signal(client, "w")
            task = await poll(client)
            request = api.RespondWorkflowTaskCompletedRequest(
                namespace="default", task_token=task.task_token, binary_checksum=f"build-{number}"
            )
            await client.workflow_service.respond_workflow_task_completed(request)
            points = (await describe(client, "w")).workflow_execution_info.auto_reset_points.points
            assert [point.binary_checksum for point in points] == [f"build-{n}" for n in range(max(0, number - 1), number + 1)]


async def test_a_page_of_history_holds_so_many_batches(client: Client) -> None:
    """A start makes one batch of two events, each signal one of its own."""
    await start(client, "w")
    for _ in range(256):
        await signal(client, "w")
    request = api.GetWorkflowExecutionHistoryRequest(namespace="default", execution=execution("w"), maximum_page_size=1000)
    first = await client.workflow_service.get_workflow_execution_history(request)
    assert len(first.history.events) == 257
    request.next_page_token = first.next_page_token
    rest = await client.workflow_service.get_workflow_execution_history(request)
    assert (len(rest.history.events), rest.next_page_token) == (1, b"")


async def test_one_query_at_a_time_waits_for_a_workflow_task() -> None:
    """The next one is told to come back."""
    async with inspected_server() as server:
        client = await Client.connect(server.grpc_address)
        await start(client, "w")
        task = await poll(client)
        await client.workflow_service.respond_workflow_task_completed(
            api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
        )
        await signal(client, "w")
        query = api.QueryWorkflowRequest(namespace="default", execution=execution("w"), query={"query_type": "q"})  # pyright: ignore
        first = asyncio.ensure_future(client.workflow_service.query_workflow(query))
        second = asyncio.ensure_future(client.workflow_service.query_workflow(query))
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(RPCError, match="consistent query buffer is full") as refused:
            await done.pop()
        assert refused.value.status == RPCStatusCode.RESOURCE_EXHAUSTED
        task = await poll(client)
        answers = {query_id: {"result_type": 1, "answer": payloads("yes")} for query_id in task.queries}
        await client.workflow_service.respond_workflow_task_completed(
            api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, query_results=answers)  # pyright: ignore
        )
        answered = await (first if not first.done() or first.exception() is None else second)
        assert answered.query_result == payloads("yes")
