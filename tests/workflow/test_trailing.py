"""The start of a workflow task is written together with what comes next; nobody but its worker is told of it before that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import CommandType, EventType, PendingWorkflowTaskState
from temporalio.api.history.v1 import History
from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
)

from perdure.core.clock import SECOND
from perdure.core.errors import ApiError, Code
from perdure.engine.trailing import TRAIL
from tests.support.activity_calls import complete_workflow, schedule, signal
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server

E = EventType
STARTED = [E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, E.EVENT_TYPE_WORKFLOW_TASK_STARTED]
RUN = WorkflowExecution(workflow_id=WORKFLOW_ID)


async def take_task(server: VirtualServer) -> PollWorkflowTaskQueueResponse:
    poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
    task = await server.call("PollWorkflowTaskQueue", poll, 60)
    assert task.task_token
    return task


async def answer(server: VirtualServer, task: PollWorkflowTaskQueueResponse, *commands: Any) -> None:
    request = RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, commands=commands, identity="worker")
    await server.call("RespondWorkflowTaskCompleted", request)


async def stored(server: VirtualServer) -> list[EventType.ValueType]:
    """What a server that starts now would find."""
    headers = await server.base.list_headers(server.core.namespaces.id_of("default") or "", "workflow")
    rows = await server.base.read_journal(headers[0].uid)
    return [event.event_type for row in rows for event in History.FromString(row.events).events]


def test_a_task_is_handed_out_before_its_start_is_written_and_written_with_its_completion() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        commits = server.store.counts.commits
        task = await take_task(server)
        assert [event.event_type for event in task.history.events] == STARTED
        assert server.store.counts.commits == commits
        assert await stored(server) == STARTED[:2]
        await answer(server, task, complete_workflow())
        assert server.store.counts.commits == commits + 1
        assert await stored(server) == [*STARTED, E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED]

    on_virtual_server(test)


def test_a_task_that_takes_longer_survives_the_server() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await take_task(server)
        await server.pass_time(TRAIL / SECOND + 0.1)
        assert await stored(server) == STARTED
        await server.crash()
        await answer(server, task, complete_workflow())

    on_virtual_server(test)


def test_a_task_whose_start_was_lost_is_handed_out_again_and_only_that_one_counts() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        lost = await take_task(server)
        await server.crash()
        again = await take_task(server)
        assert (again.attempt, again.started_event_id) == (1, 3)
        with pytest.raises(ApiError) as refused:
            await answer(server, lost, schedule("lost"))
        assert refused.value.code == Code.NOT_FOUND
        await answer(server, again, schedule("done"))
        scheduled = (await server.history())[-1].activity_task_scheduled_event_attributes
        assert scheduled.activity_id == "done"
        # It never was a failed or timed out task, either.
        assert [event.event_type for event in await server.history()][:4] == [*STARTED, E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]

    on_virtual_server(test)


def test_a_server_that_stops_in_peace_keeps_the_start() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await take_task(server)
        await server.restart()
        await answer(server, task, complete_workflow())

    on_virtual_server(test)


def test_whoever_is_told_of_a_start_is_told_of_one_that_is_written() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await take_task(server)
        assert [event.event_type for event in await server.history()] == STARTED
        assert await stored(server) == STARTED

    on_virtual_server(test)


def test_a_description_shows_the_started_task() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await take_task(server)
        described = await server.call("DescribeWorkflowExecution", DescribeWorkflowExecutionRequest(namespace="default", execution=RUN))
        assert described.pending_workflow_task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
        assert await stored(server) == STARTED

    on_virtual_server(test)


def test_who_waits_for_the_next_event_gets_the_start_at_once() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        seen = await server.call(
            "GetWorkflowExecutionHistory", GetWorkflowExecutionHistoryRequest(namespace="default", execution=RUN, wait_new_event=True)
        )
        request = GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=RUN, wait_new_event=True, next_page_token=seen.next_page_token
        )
        waiting = asyncio.ensure_future(server.call("GetWorkflowExecutionHistory", request, 60))
        await server.pass_time(0.1)
        begun = server.clock.now()
        await take_task(server)
        assert [event.event_type for event in (await waiting).history.events] == STARTED[2:]
        assert server.clock.now() - begun < TRAIL // 2

    on_virtual_server(test)


def test_what_comes_next_is_written_behind_the_start() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await take_task(server)
        await signal(server)
        assert await stored(server) == STARTED  # the signal waits for the end of the task, in the journal
        await server.crash()
        await answer(server, task, schedule())
        assert [event.event_type for event in await server.history()][3:5] == [
            E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
            E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        ]

    on_virtual_server(test)


def test_an_activity_never_trails() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule())
        commits = server.store.counts.commits
        assert (await server.activity_task()).task_token
        assert server.store.counts.commits == commits + 1

    on_virtual_server(test)


def test_a_run_that_its_limits_end_at_the_start_of_a_task_does_not_trail() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
        # The task is stale before its worker gets it.
        assert not (await server.call("PollWorkflowTaskQueue", poll, 5)).task_token
        assert (await stored(server))[-1] == E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED

    on_virtual_server(test, dynamic_config={"limit.historyCount.error": 2})


@pytest.mark.parametrize("restarts", [True, False])
def test_a_start_outlives_a_refused_answer_and_nothing_else_does(restarts: bool) -> None:
    """What the answer would have made of the run (it is closed, another one is current) must not be written along with the start."""

    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow()
        task = await take_task(server)
        again = Command(command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
        again.continue_as_new_workflow_execution_command_attributes.workflow_type.name = "Workflow"
        nonsense = Message(id="m", protocol_instance_id="u")
        request = RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=task.task_token, commands=[again], messages=[nonsense], identity="worker"
        )
        with pytest.raises(ApiError) as refused:
            await server.call("RespondWorkflowTaskCompleted", request)
        assert refused.value.code == Code.INVALID_ARGUMENT
        if restarts:
            await server.restart()
        headers = await server.base.list_headers(server.core.namespaces.id_of("default") or "", "workflow")
        assert [(header.run_id, header.is_current, header.status, header.close_at) for header in headers] == [(run_id, True, 1, None)]
        assert await stored(server) == STARTED
        await answer(server, task, complete_workflow())

    on_virtual_server(test)
