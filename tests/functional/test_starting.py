"""E5, E6: starting workflows: at most once, under every policy, delayed, eager, and with all that a start can carry."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import Callback, Link, WorkflowType
from temporalio.api.enums.v1 import EventType, WorkflowExecutionStatus, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.support.requests import QUEUE, describe, events, names, payload, payloads, poll, signal, start, terminate
from tests.support.waiting import until

FAIL = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL
USE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
TERMINATE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
REJECT_DUPLICATE = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
FAILED_ONLY = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
LINK = Link(workflow_event=Link.WorkflowEvent(namespace="default", workflow_id="other", run_id="11111111-2222-4333-8444-555555555555"))


async def refused(call: Any) -> RPCError:
    with pytest.raises(RPCError) as caught:
        await call
    return caught.value


async def test_a_repeated_request_gives_the_same_run_for_ever(client: Client) -> None:
    first = await start(client, "w", request_id="r")
    again = await start(client, "w", request_id="r", workflow_id_reuse_policy=REJECT_DUPLICATE)
    assert (again.run_id, again.started) == (first.run_id, True)
    await terminate(client, "w")
    closed = await start(client, "w", request_id="r")
    assert (closed.run_id, closed.status) == (first.run_id, WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED)
    other = await start(client, "w", request_id="s")
    assert other.run_id != first.run_id


async def test_the_policies_that_refuse_say_which_run_is_in_the_way(client: Client) -> None:
    first = await start(client, "w", request_id="r")
    error = await refused(start(client, "w"))
    assert error.status == RPCStatusCode.ALREADY_EXISTS
    assert error.message == f"Workflow execution is already running. WorkflowId: w, RunId: {first.run_id}."
    failure = WorkflowExecutionAlreadyStartedFailure()
    assert error.grpc_status.details[0].Unpack(failure)
    assert (failure.run_id, failure.start_request_id, failure.first_execution_run_id) == (first.run_id, "r", first.run_id)
    await terminate(client, "w")
    error = await refused(start(client, "w", workflow_id_reuse_policy=REJECT_DUPLICATE))
    assert error.message.endswith("Workflow Id reuse policy: reject duplicate workflow Id.")
    assert (await start(client, "w", workflow_id_reuse_policy=FAILED_ONLY)).started


async def test_terminate_existing_names_the_run_that_takes_over(client: Client) -> None:
    first = await start(client, "w")
    second = await start(client, "w", workflow_id_conflict_policy=TERMINATE_EXISTING)
    last = (await events(client, "w", first.run_id))[-1].workflow_execution_terminated_event_attributes
    assert last.reason == "TerminateIfRunning WorkflowIdReusePolicy"
    assert json.loads(last.details.payloads[0].data) == f"terminated by new runID: {second.run_id}"


async def test_use_existing_attaches_what_it_is_told_to(client: Client) -> None:
    callback = Callback(nexus=Callback.Nexus(url="http://127.0.0.1:1/done", header={"Token": "t"}))
    first = await start(client, "w")
    options = {"attach_request_id": True, "attach_completion_callbacks": True, "attach_links": True}
    request: dict[str, Any] = {
        "request_id": "second", "workflow_id_conflict_policy": USE_EXISTING, "on_conflict_options": options, "links": [LINK],
        "completion_callbacks": [callback],
    }  # fmt: skip
    second = await start(client, "w", **request)
    assert (second.run_id, second.started) == (first.run_id, False)
    assert second.link.workflow_event.request_id_ref.request_id == "second"
    await start(client, "w", **request)
    found = await events(client, "w")
    assert names(found)[2:] == ["WORKFLOW_EXECUTION_OPTIONS_UPDATED"]
    assert found[2].worker_may_ignore
    assert list(found[2].links) == [LINK]
    described = await describe(client, "w")
    info = described.workflow_extended_info.request_id_infos["second"]
    assert (info.event_id, info.event_type) == (3, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
    assert dict(described.callbacks[0].callback.nexus.header) == {"token": "t"}
    # The attached request id stands for the run also after it has closed.
    await terminate(client, "w")
    assert (await start(client, "w", request_id="second")).run_id == first.run_id


async def test_a_delayed_run_gets_its_first_task_when_it_is_due(client: Client) -> None:
    await start(client, "w", workflow_start_delay=timedelta(milliseconds=600))
    await signal(client, "w")
    assert not (await describe(client, "w")).HasField("pending_workflow_task")
    task = await poll(client)
    assert names(list(task.history.events)) == [
        "WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED",
    ]  # fmt: skip
    started = task.history.events[0].event_time.ToDatetime()
    assert task.history.events[2].event_time.ToDatetime() - started >= timedelta(milliseconds=600)


@pytest.mark.parametrize("how", ["cancel", "signal with start"])
async def test_a_delay_can_be_cut_short(client: Client, how: str) -> None:
    hour = timedelta(hours=1)
    await start(client, "w", workflow_start_delay=hour)
    if how == "cancel":
        await client.get_workflow_handle("w").cancel()
    else:
        await client.start_workflow("Flow", id="w", task_queue=QUEUE, start_signal="go", start_delay=hour)
    assert (await describe(client, "w")).HasField("pending_workflow_task")


async def test_an_eager_start_brings_the_first_task_along(client: Client) -> None:
    request = {"request_id": "r", "request_eager_execution": True, "input": payloads("in")}
    response = await start(client, "w", **request)
    task = response.eager_workflow_task
    assert (task.attempt, task.started_event_id) == (1, 3)
    assert names(list(task.history.events)) == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]
    attributes = task.history.events[2].workflow_task_started_event_attributes
    assert (attributes.identity, attributes.request_id, attributes.history_size_bytes) == ("starter", "r", 0)
    again = await start(client, "w", **request)
    assert again.eager_workflow_task.task_token == task.task_token
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, identity="worker")
    )
    assert not (await start(client, "w", **request)).HasField("eager_workflow_task")


async def test_a_delayed_start_is_never_eager(client: Client) -> None:
    response = await start(client, "w", request_eager_execution=True, workflow_start_delay=timedelta(hours=1))
    assert not response.HasField("eager_workflow_task")


async def test_everything_that_a_start_carries_is_kept(client: Client) -> None:
    await start(
        client, "w", memo={"fields": {"note": payload("kept"), "gone": payload(None)}}, user_metadata={"summary": payload("short")},
        search_attributes={"indexed_fields": {"BuildIds": payload(["b"])}}, links=[LINK], priority={"priority_key": 2},
        workflow_execution_timeout=timedelta(seconds=10), workflow_run_timeout=timedelta(seconds=20), header={"fields": {"h": payload(1)}},
        last_completion_result=payloads("before"), continued_failure={"message": "once"},
    )  # fmt: skip
    first = (await events(client, "w"))[0]
    attributes = first.workflow_execution_started_event_attributes
    assert attributes.workflow_run_timeout.seconds == 10
    assert attributes.last_completion_result == payloads("before")
    assert attributes.continued_failure.message == "once"
    assert attributes.search_attributes.indexed_fields["BuildIds"].metadata["type"] == b"KeywordList"
    assert list(attributes.memo.fields) == ["note"]
    assert list(first.links) == [LINK]
    described = await describe(client, "w")
    assert list(described.workflow_execution_info.memo.fields) == ["note"]
    assert described.execution_config.user_metadata.summary == payload("short")
    assert described.workflow_execution_info.priority.priority_key == 2
    assert described.workflow_extended_info.HasField("execution_expiration_time")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workflow_id": ""}, "WorkflowId is not set on request."),
        ({"workflow_id": "ü" * 501}, "WorkflowId exceeds maximum allowed length (1002/1000)"),
        ({"task_queue": None}, "taskQueue is not set"),
        ({"input": payloads("x" * 2 * 1024 * 1024)}, "Blob data size exceeds limit."),
        ({"memo": {"fields": {"m": payload("x" * 2 * 1024 * 1024)}}}, "Memo size exceeds limit."),
        ({"links": [LINK] * 11}, "cannot attach more than 10 links per request, got 11"),
        ({"completion_callbacks": [Callback(nexus=Callback.Nexus(url="ftp://x/y"))]}, "invalid url: unknown scheme: ftp://x/y"),
        ({"versioning_override": {}}, "override behavior is required"),
        ({"cron_schedule": "nonsense"}, "invalid CronSchedule."),
    ],
)
async def test_what_makes_no_sense_is_refused(client: Client, fields: dict[str, Any], message: str) -> None:
    error = await refused(start(client, **{"workflow_id": "w", **fields}))
    assert (error.status, error.message) == (RPCStatusCode.INVALID_ARGUMENT, message)


async def test_nothing_starts_in_a_deprecated_namespace(client: Client) -> None:
    await client.workflow_service.deprecate_namespace(api.DeprecateNamespaceRequest(namespace="default"))
    error = await refused(start(client, "w"))
    assert (error.status, error.message) == (
        RPCStatusCode.FAILED_PRECONDITION, "Namespace has invalid state: Deprecated. Must be Registered.",
    )  # fmt: skip


async def test_a_signal_with_start_signals_once(client: Client) -> None:
    request = api.SignalWithStartWorkflowExecutionRequest(
        namespace="default",
        workflow_id="w",
        workflow_type=WorkflowType(name="Flow"),
        task_queue=TaskQueue(name=QUEUE),
        request_id="r",
        signal_name="go",
    )
    first = await client.workflow_service.signal_with_start_workflow_execution(request)
    again = await client.workflow_service.signal_with_start_workflow_execution(request)
    assert (first.started, again.started, again.run_id) == (True, False, first.run_id)
    assert names(await events(client, "w")) == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED"]
    await terminate(client, "w")
    closed = await client.workflow_service.signal_with_start_workflow_execution(request)
    assert (closed.started, closed.run_id) == (False, first.run_id)
    assert first.signal_link.workflow_event.request_id_ref.request_id == "r"


async def test_starting_over_survives_being_asked_from_all_sides(client: Client) -> None:
    """Of many starts with different request ids at one moment, one begins a run; the others are told so."""
    outcomes = await asyncio.gather(*(start(client, "w") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, api.StartWorkflowExecutionResponse) for outcome in outcomes) == 1
    assert {outcome.status for outcome in outcomes if isinstance(outcome, RPCError)} == {RPCStatusCode.ALREADY_EXISTS}


async def test_a_run_timeout_begins_after_the_delay(client: Client) -> None:
    await start(client, "w", workflow_start_delay=timedelta(milliseconds=300), workflow_run_timeout=timedelta(milliseconds=300))

    async def closed() -> bool:
        return (await describe(client, "w")).workflow_execution_info.HasField("close_time")

    await until(closed)
    info = (await describe(client, "w")).workflow_execution_info
    assert info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    assert info.close_time.ToDatetime() - info.start_time.ToDatetime() >= timedelta(milliseconds=600)


async def test_a_list_shows_search_attributes_and_a_memo_also_where_there_are_none(client: Client) -> None:
    await start(client, "w", workflow_start_delay=timedelta(minutes=1))  # nobody has taken its task: it has not even a build id
    (shown,) = (await client.workflow_service.list_workflow_executions(api.ListWorkflowExecutionsRequest(namespace="default"))).executions
    assert shown.HasField("search_attributes")
    assert shown.HasField("memo")
    assert not shown.search_attributes.indexed_fields
