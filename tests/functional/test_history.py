"""E3: reading histories: pages, backwards, waiting for more, waiting for the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import CommandType, HistoryEventFilterType, TimeoutType, WorkflowIdConflictPolicy
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError

from perdure.core.clock import SECOND, to_duration
from perdure.core.limits import Limits
from tests.support.inspected import inspected_server
from tests.support.requests import describe, events, execution, names, payloads, poll, signal, start, terminate

CLOSE_EVENT = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
MIB = 1024 * 1024


def request(workflow_id: str = "w", run_id: str = "", **fields: object) -> api.GetWorkflowExecutionHistoryRequest:
    return api.GetWorkflowExecutionHistoryRequest(namespace="default", execution=execution(workflow_id, run_id), **fields)  # type: ignore[arg-type]


def marker(name: str, size: int = 0) -> Command:
    attributes = {"marker_name": name, "details": {"data": payloads("x" * size)}}
    return Command(command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=attributes)  # type: ignore[arg-type]


async def turn(client: Client, *commands: Command) -> None:
    """One workflow task with these commands."""
    await answer(client, await poll(client), *commands)


async def answer(client: Client, task: api.PollWorkflowTaskQueueResponse, *commands: Command) -> None:
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands)
    )


async def pages(client: Client, size: int) -> list[list[int]]:
    """The event ids of each page."""
    found: list[list[int]] = []
    token = b""
    while True:
        page = await client.workflow_service.get_workflow_execution_history(request(maximum_page_size=size, next_page_token=token))
        found.append([event.event_id for event in page.history.events])
        token = page.next_page_token
        if not token:
            return found


async def backwards(client: Client, size: int = 0) -> list[int]:
    """The event ids, read from the end; each page is one that clients take."""
    found: list[int] = []
    token = b""
    while True:
        page = await client.workflow_service.get_workflow_execution_history_reverse(
            api.GetWorkflowExecutionHistoryReverseRequest(
                namespace="default", execution=execution("w"), maximum_page_size=size, next_page_token=token
            )
        )
        assert page.ByteSize() < 4 * MIB
        found.extend(event.event_id for event in page.history.events)
        token = page.next_page_token
        if not token:
            return found


async def test_a_page_holds_whole_batches(client: Client) -> None:
    await start(client, "w")
    await turn(client, marker("a"), marker("b"))
    await terminate(client, "w")
    assert await pages(client, 2) == [[1, 2, 3], [4, 5, 6, 7], []]
    assert await pages(client, 100) == [[1, 2, 3, 4, 5, 6, 7]]


async def test_backwards_is_the_same_the_other_way_round(client: Client) -> None:
    await start(client, "w")
    await turn(client, marker("a"), marker("b"))
    await terminate(client, "w")
    assert await backwards(client, 1) == [7, 6, 5, 4, 3, 2, 1]


async def test_no_page_is_bigger_than_a_message_may_be(database: str) -> None:
    """Twelve MiB of events, five of them written at once, where that is allowed; clients take messages of 4 MiB by default."""
    limits = Limits.from_dynamic_config({"system.transactionSizeLimit": 8 * MIB})
    async with inspected_server(database=database, limits=limits) as server:
        client = await Client.connect(server.grpc_address)
        await start(client, "w", input=payloads("x" * (2 * MIB - 100)))
        for _ in range(2):
            task = await poll(client)
            await signal(client, "w", input=payloads("x" * (2 * MIB - 100)))
            await answer(client, task, *(marker(str(number), MIB - 1000) for number in range(3)))
        await terminate(client, "w")
        found: list[int] = []
        token = b""
        while True:
            page = await client.workflow_service.get_workflow_execution_history(request(next_page_token=token))
            assert page.ByteSize() < 4 * MIB
            found.extend(event.event_id for event in page.history.events)
            token = page.next_page_token
            if not token:
                break
        assert found == list(range(1, len(found) + 1))
        assert len(found) == len(await events(client, "w"))
        assert await backwards(client) == found[::-1]


async def test_a_reader_that_waits_is_told_at_once(client: Client) -> None:
    await start(client, "w")
    service = client.workflow_service
    first = await service.get_workflow_execution_history(request(wait_new_event=True))
    assert [event.event_id for event in first.history.events] == [1, 2]
    waiting = asyncio.create_task(
        service.get_workflow_execution_history(request(wait_new_event=True, next_page_token=first.next_page_token))
    )
    await signal(client, "w")
    second = await waiting
    assert names(list(second.history.events)) == ["WORKFLOW_EXECUTION_SIGNALED"]
    waiting = asyncio.create_task(
        service.get_workflow_execution_history(request(wait_new_event=True, next_page_token=second.next_page_token))
    )
    await terminate(client, "w")
    last = await waiting
    assert names(list(last.history.events)) == ["WORKFLOW_EXECUTION_TERMINATED"]
    assert not last.next_page_token


async def test_waiting_ends_before_the_callers_deadline(client: Client) -> None:
    await start(client, "w")
    first = await client.workflow_service.get_workflow_execution_history(request(wait_new_event=True))
    waits = (
        request(wait_new_event=True, next_page_token=first.next_page_token),
        request(wait_new_event=True, history_event_filter_type=CLOSE_EVENT),
    )
    for wait in waits:
        answer = await client.workflow_service.get_workflow_execution_history(wait, timeout=timedelta(seconds=1.5))
        assert not answer.history.events
        assert answer.next_page_token


async def test_the_close_event_is_what_a_result_is_read_from(client: Client) -> None:
    run_id = (await start(client, "w")).run_id
    service = client.workflow_service
    open_answer = await service.get_workflow_execution_history(request(history_event_filter_type=CLOSE_EVENT))
    assert not open_answer.history.events
    waiting = asyncio.create_task(
        service.get_workflow_execution_history(request(run_id=run_id, wait_new_event=True, history_event_filter_type=CLOSE_EVENT))
    )
    await terminate(client, "w")
    assert names(list((await waiting).history.events)) == ["WORKFLOW_EXECUTION_TERMINATED"]
    await start(client, "w")
    closed = await service.get_workflow_execution_history(request(run_id=run_id, history_event_filter_type=CLOSE_EVENT))
    assert names(list(closed.history.events)) == ["WORKFLOW_EXECUTION_TERMINATED"]


async def test_task_ids_grow_from_run_to_run(client: Client) -> None:
    """However a run follows another one: by continuing as new, by a start, over a running one, and behind a reset."""
    run_ids = [(await start(client, "w")).run_id]
    continued = Command(command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
    continued.continue_as_new_workflow_execution_command_attributes.workflow_type.name = "Flow"
    await turn(client, continued)
    run_ids.append((await describe(client, "w")).workflow_execution_info.execution.run_id)
    await turn(client, marker("m"))
    await terminate(client, "w")
    run_ids.append((await start(client, "w")).run_id)
    await turn(client, marker("m"))
    instead = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    run_ids.append((await start(client, "w", workflow_id_conflict_policy=instead)).run_id)
    task_ids = [event.task_id for run_id in run_ids for event in await events(client, "w", run_id)]
    assert task_ids == sorted(set(task_ids))
    reset = api.ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=execution("w", run_ids[1]), workflow_task_finish_event_id=4, request_id="reset"
    )
    run_id = (await client.workflow_service.reset_workflow_execution(reset)).run_id
    task_ids = [event.task_id for event in await events(client, "w", run_id)]
    assert task_ids == sorted(set(task_ids))


async def close_of(client: Client, run_id: str, **headers: str) -> HistoryEvent:
    """What a client that waits for the result of a run is given."""
    wanted = request(run_id=run_id, wait_new_event=True, history_event_filter_type=CLOSE_EVENT)
    (event,) = (await client.workflow_service.get_workflow_execution_history(wanted, metadata=headers)).history.events
    return event


async def test_a_client_that_knows_one_way_to_go_on_finds_the_next_run_there(client: Client) -> None:
    """The close of a retried run reads as a continue-as-new, unless the client says that it looks for the next run in any close."""
    policy = RetryPolicy(initial_interval=to_duration(SECOND), maximum_attempts=2)
    run_id = (await start(client, "w", retry_policy=policy)).run_id
    failure = Failure(message="not yet", application_failure_info=ApplicationFailureInfo(type="Early"))
    failed = Command(command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    failed.fail_workflow_execution_command_attributes.failure.CopyFrom(failure)
    await turn(client, failed)
    real = (await events(client, "w", run_id))[-1]
    assert names([real]) == ["WORKFLOW_EXECUTION_FAILED"]
    assert await close_of(client, run_id, **{"supported-features": "other,follows-next-run-id"}) == real
    told = await close_of(client, run_id)
    assert names([told]) == ["WORKFLOW_EXECUTION_CONTINUED_AS_NEW"]
    assert (told.event_id, told.event_time, told.task_id) == (real.event_id, real.event_time, real.task_id)
    attributes = told.workflow_execution_continued_as_new_event_attributes
    assert attributes.new_execution_run_id == real.workflow_execution_failed_event_attributes.new_execution_run_id
    assert attributes.failure == failure
    await turn(client, failed)
    assert names([await close_of(client, attributes.new_execution_run_id)]) == ["WORKFLOW_EXECUTION_FAILED"]


async def test_the_close_of_a_run_that_ran_out_of_time_leads_on_too(client: Client) -> None:
    policy = RetryPolicy(initial_interval=to_duration(SECOND), maximum_attempts=2)
    run_id = (await start(client, "w", retry_policy=policy, workflow_run_timeout=timedelta(milliseconds=50))).run_id
    told = await close_of(client, run_id)
    (real,) = (await events(client, "w", run_id))[-1:]
    attributes = told.workflow_execution_continued_as_new_event_attributes
    assert attributes.new_execution_run_id == real.workflow_execution_timed_out_event_attributes.new_execution_run_id
    assert attributes.failure.timeout_failure_info.timeout_type == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert attributes.failure.message == "workflow timeout"


async def test_the_retry_of_a_task_is_shown_to_programs_only(client: Client) -> None:
    """Its events are not written before it completes; people's tools would show what may never have been."""
    await start(client, "w")
    task = await poll(client)
    await client.workflow_service.respond_workflow_task_failed(
        api.RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token)
    )
    assert names(await events(client, "w"))[3:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]
    tool = await client.workflow_service.get_workflow_execution_history(request(), metadata={"client-name": "temporal-cli"})
    assert len(tool.history.events) == 4
    reverse = await client.workflow_service.get_workflow_execution_history_reverse(
        api.GetWorkflowExecutionHistoryReverseRequest(namespace="default", execution=execution("w"))
    )
    assert names(list(reverse.history.events))[0] == "WORKFLOW_TASK_FAILED"


async def test_tokens_are_checked(client: Client) -> None:
    run_id = (await start(client, "w")).run_id
    await terminate(client, "w")
    page = await client.workflow_service.get_workflow_execution_history(request(maximum_page_size=1))
    other = (await start(client, "w")).run_id
    # A token goes on with the run that it began with, also when another one is current by now.
    rest = await client.workflow_service.get_workflow_execution_history(request(next_page_token=page.next_page_token))
    assert names(list(rest.history.events)) == ["WORKFLOW_EXECUTION_TERMINATED"]
    assert run_id != other
    with pytest.raises(RPCError, match=r"RunId in the request does not match the NextPageToken\."):
        await client.workflow_service.get_workflow_execution_history(request(run_id=other, next_page_token=page.next_page_token))
    with pytest.raises(RPCError, match=r"Invalid NextPageToken\."):
        await client.workflow_service.get_workflow_execution_history(request(next_page_token=b"junk"))
