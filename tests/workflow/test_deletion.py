"""A run that is deleted tells those who wait for it before it goes, whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, HistoryEventFilterType
from temporalio.api.history.v1 import History
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import HOUR
from perdure.core.errors import ApiError, Code
from perdure.store.protocol import JournalRow, Store
from tests.support.saboteur import Saboteur, recorded
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server

CHILD = "child"


async def begin(server: VirtualServer) -> Saboteur:
    """A parent with a running child, on a store that may be told to refuse."""
    saboteur = Saboteur(server.base)
    server.store.base = cast(Store, saboteur)
    await server.start_workflow()
    child = StartChildWorkflowExecutionCommandAttributes(workflow_id=CHILD, workflow_type=WorkflowType(name="Child"), task_queue=QUEUE)
    command = Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, start_child_workflow_execution_command_attributes=child
    )
    await server.decide(command)
    await server.pass_time(0.1)
    return saboteur


async def insist(server: VirtualServer, method: str, request: Any) -> None:
    """Ask until the store takes it: what is committed together with something refused fails with it."""
    while True:
        try:
            await server.call(method, request)
        except ApiError as error:
            if error.code != Code.UNAVAILABLE:
                raise
        else:
            return


async def delete(server: VirtualServer, workflow_id: str) -> None:
    request = service.DeleteWorkflowExecutionRequest(namespace="default")
    request.workflow_execution.workflow_id = workflow_id
    await insist(server, "DeleteWorkflowExecution", request)


async def terminate(server: VirtualServer, workflow_id: str) -> None:
    request = service.TerminateWorkflowExecutionRequest(namespace="default")
    request.workflow_execution.workflow_id = workflow_id
    await insist(server, "TerminateWorkflowExecution", request)


async def is_gone(server: VirtualServer, workflow_id: str) -> bool:
    try:
        await server.history(workflow_id)
    except ApiError as error:
        if error.code != Code.NOT_FOUND:
            raise
        return True
    return False


async def last_event(server: VirtualServer, workflow_id: str) -> EventType.ValueType:
    return [event for event in await server.history(workflow_id) if "TASK" not in EventType.Name(event.event_type)][-1].event_type


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
def test_the_parent_learns_of_a_deleted_childs_end(is_closed: bool, restarts: bool) -> None:
    told = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED

    async def test(server: VirtualServer) -> None:
        saboteur = await begin(server)
        saboteur.refuses = lambda commit: told in recorded(commit)
        if is_closed:
            await terminate(server, CHILD)
        await delete(server, CHILD)
        await delete(server, CHILD)
        assert saboteur.refusals
        assert not await is_gone(server, CHILD)
        if restarts:
            await server.restart()
        saboteur.refuses = lambda commit: False
        await server.pass_time(11)
        assert await last_event(server, WORKFLOW_ID) == told
        assert await is_gone(server, CHILD)

    on_virtual_server(test)


def is_end_of_child(row: JournalRow) -> bool:
    """Whether a row has the end that the parent close policy brings."""
    events = History.FromString(row.events).events
    return any(event.workflow_execution_terminated_event_attributes.reason == "by parent close policy" for event in events)


@pytest.mark.parametrize("restarts", [True, False])
def test_the_children_of_a_deleted_parent_end_with_it(restarts: bool) -> None:
    async def test(server: VirtualServer) -> None:
        saboteur = await begin(server)
        saboteur.refuses = lambda commit: any(is_end_of_child(row) for row in commit.journal)
        await delete(server, WORKFLOW_ID)
        assert saboteur.refusals
        assert not await is_gone(server, WORKFLOW_ID)
        if restarts:
            await server.restart()
        saboteur.refuses = lambda commit: False
        await server.pass_time(11)
        assert await last_event(server, CHILD) == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
        assert await is_gone(server, WORKFLOW_ID)

    on_virtual_server(test)


def test_a_run_that_owes_nothing_goes_at_once() -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow()
        before = server.store.counts.commits
        await delete(server, WORKFLOW_ID)
        assert await is_gone(server, WORKFLOW_ID)
        assert server.store.counts.commits == before + 2, "its end, and its removal"
        assert await server.start_workflow() != run_id

    on_virtual_server(test)


def test_who_waits_for_the_end_of_a_run_learns_that_it_is_deleted() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        request = service.GetWorkflowExecutionHistoryRequest(namespace="default", wait_new_event=True)
        request.execution.workflow_id = WORKFLOW_ID
        request.history_event_filter_type = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        waiting = asyncio.ensure_future(server.call("GetWorkflowExecutionHistory", request, 20))
        await server.pass_time(0.1)
        await delete(server, WORKFLOW_ID)
        (end,) = (await waiting).history.events
        attributes = end.workflow_execution_terminated_event_attributes
        assert (attributes.reason, attributes.identity) == ("Delete workflow execution", "history-service")

    on_virtual_server(test)


def test_a_run_that_owes_something_outlives_its_retention() -> None:
    told = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED

    async def test(server: VirtualServer) -> None:
        saboteur = await begin(server)
        saboteur.refuses = lambda commit: told in recorded(commit)
        await terminate(server, CHILD)
        await server.pass_time(3_700)
        assert not await is_gone(server, CHILD)
        saboteur.refuses = lambda commit: False
        await server.pass_time(60)
        assert await last_event(server, WORKFLOW_ID) == told
        assert await is_gone(server, CHILD)

    on_virtual_server(test, namespace_retention=HOUR)
