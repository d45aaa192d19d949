"""A workflow task whose worker was gone before it got it: it goes to another one at once, and nothing has failed.

Row by row of the table of ``task/taking_back.py``.
"""

from __future__ import annotations

import asyncio

from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import SECOND
from perdure.features.workflow.state import TaskStatus
from tests.support.task_calls import EXECUTION, complete, complete_workflow, fail, poll, poll_and_vanish, signal, types
from tests.support.update_calls import accept, idle, next_task, respond, update
from tests.support.update_calls import complete as complete_updates
from tests.support.virtual_server import VirtualServer, on_virtual_server

BEGUN = ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]
POLICY = '{"action": "pause", "after": 2}'


def test_a_start_that_is_not_written_is_forgotten() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await poll_and_vanish(server)
        begun = server.clock.now()
        task = await poll(server)
        assert server.clock.now() - begun < SECOND
        assert task.attempt == 1
        assert await types(server) == BEGUN
        await complete(server, task, complete_workflow())

    on_virtual_server(test)


async def vanish_in_public(server: VirtualServer) -> None:
    """Take a task that never arrives, and whose start somebody else is told of."""
    request = service.GetWorkflowExecutionHistoryRequest(namespace="default", execution=EXECUTION, wait_new_event=True)
    request.next_page_token = (await server.call("GetWorkflowExecutionHistory", request)).next_page_token
    told = asyncio.ensure_future(server.call("GetWorkflowExecutionHistory", request, 30))
    await server.pass_time(0.1)
    await poll_and_vanish(server)
    await told


def test_a_start_that_is_written_times_out_and_does_not_count() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await vanish_in_public(server)
        await server.restart()
        begun = server.clock.now()
        task = await poll(server)
        assert server.clock.now() - begun < SECOND
        assert task.attempt == 1
        assert (await server.state()).task.problems == 0
        assert await types(server) == [*BEGUN, "WORKFLOW_TASK_TIMED_OUT", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]
        # A timeout of its own counts as ever.
        await server.pass_time(11)
        assert (await server.state()).task.problems == 1

    on_virtual_server(test)


def test_one_failure_and_a_broken_connection_are_not_two_failures() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await vanish_in_public(server)
        await fail(server, await poll(server))
        assert not (await server.state()).is_paused
        await poll_and_vanish(server)
        task = (await server.state()).task
        assert (task.status, task.attempt, task.alike) == (TaskStatus.TRANSIENT_SCHEDULED, 2, 1)
        begun = server.clock.now()
        again = await poll(server)
        assert server.clock.now() - begun < SECOND
        assert again.attempt == 2
        await fail(server, again)
        assert (await server.state()).is_paused, "now it has failed twice"

    on_virtual_server(test, poison_policy=POLICY)


def test_what_came_while_a_retry_was_on_its_way_is_shown_to_the_next_worker() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await fail(server, await poll(server))
        await poll_and_vanish(server)
        await signal(server)
        task = await poll(server)
        assert task.history.events[-1].event_id == task.started_event_id
        await complete(server, task, complete_workflow())
        assert (await types(server))[-5:] == [
            "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED",
            "WORKFLOW_EXECUTION_COMPLETED",
        ]  # fmt: skip

    on_virtual_server(test)


def test_an_update_waits_for_the_next_worker_and_leaves_no_trace_meanwhile() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        before = (await server.state()).next_event_id
        call = update(server, "u")
        await server.pass_time(0.1)
        await poll_and_vanish(server)
        assert (await server.state()).next_event_id == before
        task = await next_task(server)
        (message,) = task.messages
        await complete_updates(server, task, accept(message), respond(message))
        await call

    on_virtual_server(test)
