"""E7: what a reset does to the children, and to those who wait for the run that it ends."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ParentClosePolicy, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import (
    PauseWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    UnpauseWorkflowExecutionRequest,
)

from perdure.core.errors import ApiError
from tests.support.activity_calls import complete as complete_activity
from tests.support.activity_calls import schedule
from tests.support.reset_calls import (
    CHILD_ID,
    CHILD_STARTED,
    CHILDREN,
    RUNNING,
    TERMINATED,
    complete_child,
    continue_as_new,
    describe,
    event_of,
    history,
    reset,
    signal_child,
    start_child,
    status,
)
from tests.support.task_calls import complete, complete_workflow, fail, marker, poll, signal, terminate, types
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server

E = EventType
EXCLUDE_EVERYTHING = [value for value in ResetReapplyExcludeType.values() if value]


async def with_child(server: VirtualServer, **attributes: Any) -> str:
    """A run whose first task (it ends with event 4) starts a child; its second task, which ends with event 9, has seen it start."""
    run_id = await server.start_workflow()
    await server.decide(start_child(**attributes))
    await event_of(server, CHILD_STARTED)
    await server.decide(marker())
    return run_id


# -- which children go on ----------------------------------------------------------------------------------------
def test_children_of_the_run_that_a_reset_run_had_continued_as_are_closed() -> None:
    async def test(server: VirtualServer) -> None:
        first = await server.start_workflow()
        await server.decide(continue_as_new())
        await with_child_of_the_next_run(server)
        await reset(server, 4, first)
        await server.pass_time(1)
        assert await status(server, CHILD_ID) == TERMINATED

    on_virtual_server(test)


async def with_child_of_the_next_run(server: VirtualServer) -> None:
    await server.decide(start_child())
    await event_of(server, CHILD_STARTED)


def test_children_of_a_reset_run_are_closed_by_the_next_reset_of_its_base() -> None:
    async def test(server: VirtualServer) -> None:
        base = await server.start_workflow()
        await server.decide(marker())
        await reset(server, 4, base)
        await server.decide(start_child())
        await event_of(server, CHILD_STARTED)
        await server.restart()
        await reset(server, 4, base)
        await server.pass_time(1)
        assert await status(server, CHILD_ID) == TERMINATED

    on_virtual_server(test)


def test_a_child_from_before_the_point_goes_on_however_often_the_base_is_reset() -> None:
    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        for _ in range(3):
            await reset(server, 9, base)
            await server.pass_time(1)
            assert await status(server, CHILD_ID) == RUNNING
        await complete_child(server)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)

    on_virtual_server(test)


def test_a_child_that_ended_while_a_reset_run_waited_for_it_is_known_to_the_next_one() -> None:
    """The child tells only one run how it ended; the base run does not know."""

    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        await reset(server, 9, base)
        await reset(server, 9)
        await complete_child(server)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)
        await reset(server, 9, base)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)
        assert (await types(server)).count("CHILD_WORKFLOW_EXECUTION_COMPLETED") == 1

    on_virtual_server(test)


@pytest.mark.parametrize("later", [True, False])
def test_the_end_of_a_child_happens_again_even_if_nothing_else_does(later: bool) -> None:
    """Otherwise the new run would wait for ever. later: the child ended after the run itself."""

    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        await signal(server)
        if not later:
            await complete_child(server)
            await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)
        await reset(server, 9, base, reset_reapply_exclude_types=EXCLUDE_EVERYTHING)
        if later:
            await complete_child(server)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)
        assert "WORKFLOW_EXECUTION_SIGNALED" not in await types(server)

    on_virtual_server(test)


def test_a_child_from_behind_the_point_makes_room_for_the_one_that_the_code_starts_again() -> None:
    async def test(server: VirtualServer) -> None:
        await with_child(server)
        first_child = (await history(server, workflow_id=CHILD_ID))[0].workflow_execution_started_event_attributes
        await reset(server, 4)
        await server.decide(start_child())
        started = (await event_of(server, CHILD_STARTED)).child_workflow_execution_started_event_attributes
        assert started.workflow_execution.run_id != first_child.first_execution_run_id
        assert await status(server, CHILD_ID) == RUNNING
        assert await status(server, CHILD_ID, first_child.first_execution_run_id) == TERMINATED

    on_virtual_server(test)


def test_an_abandoned_child_from_behind_the_point_keeps_its_workflow_id() -> None:
    async def test(server: VirtualServer) -> None:
        await with_child(server, parent_close_policy=ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON)
        await reset(server, 4)
        await server.decide(start_child())
        await event_of(server, E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED)
        assert await status(server, CHILD_ID) == RUNNING

    on_virtual_server(test)


def test_a_child_finds_its_parent_behind_any_resets() -> None:
    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        await reset(server, 9, base)
        second = await reset(server, 9)
        await reset(server, 9, base)
        await reset(server, 9, second)
        await server.pass_time(1)
        await complete_child(server)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)

    on_virtual_server(test)


@pytest.mark.parametrize("follows", [False, True])
def test_a_child_that_ended_while_its_parent_was_closed_is_asked_after(follows: bool) -> None:
    """It told the closed run, which took no notice. follows: it ended by the parent close policy."""

    async def test(server: VirtualServer) -> None:
        policy = ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE if follows else ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON
        base = await with_child(server, parent_close_policy=policy)
        await terminate(server)
        if not follows:
            await complete_child(server)
        await server.pass_time(1)
        await reset(server, 9, base)
        end = E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED if follows else E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED
        await event_of(server, end)
        await server.decide(complete_workflow())

    on_virtual_server(test)


def test_a_child_that_runs_on_is_asked_once_and_tells_its_new_parent() -> None:
    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        await reset(server, 9, base)
        await server.pass_time(1)
        (child,) = (await server.state()).children.values()
        assert child.is_asked
        await server.restart()
        await complete_child(server)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)

    on_virtual_server(test)


# -- the new run is the parent -----------------------------------------------------------------------------------
def test_a_child_that_was_handed_on_listens_to_its_new_parent_and_outlives_it() -> None:
    async def test(server: VirtualServer) -> None:
        await with_child(server)
        await reset(server, 9)
        await server.restart()
        await server.decide(signal_child())
        await event_of(server, E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
        await server.decide(complete_workflow())
        await server.pass_time(1)
        assert await status(server, CHILD_ID) == RUNNING

    on_virtual_server(test)


def test_a_child_that_was_handed_on_is_closed_by_a_reset_to_before_its_start() -> None:
    async def test(server: VirtualServer) -> None:
        base = await with_child(server)
        await reset(server, 9)
        await reset(server, 4, base)
        await server.pass_time(1)
        assert await status(server, CHILD_ID) == TERMINATED

    on_virtual_server(test)


# -- who may say that it was a reset ------------------------------------------------------------------------------
async def terminate_as_the_resetter(server: VirtualServer, workflow_id: str) -> None:
    request = TerminateWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=workflow_id), identity="history-resetter"
    )
    await server.call("TerminateWorkflowExecution", request)


def test_a_client_that_calls_itself_resetter_resets_nothing() -> None:
    async def test(server: VirtualServer) -> None:
        await with_child(server)
        await terminate_as_the_resetter(server, CHILD_ID)
        await event_of(server, E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED)
        await server.decide(start_child("other"))
        await server.pass_time(1)
        await terminate_as_the_resetter(server, WORKFLOW_ID)
        await server.pass_time(1)
        assert await status(server, "other") == TERMINATED

    on_virtual_server(test)


def test_a_parent_is_told_of_a_child_that_gave_way_to_the_reset_of_somebody_else() -> None:
    """An earlier run under the child's workflow id was nobody's child; the run made from it tells no parent how the child ended."""

    async def test(server: VirtualServer) -> None:
        base = await server.start_workflow()
        await server.decide(marker())
        await terminate(server)
        await server.start_workflow("parent")
        await server.decide(start_child(WORKFLOW_ID))
        task = await poll(server, CHILDREN)
        await complete(server, task, marker())
        await reset(server, 4, base)
        await server.pass_time(1)
        names = [E.Name(event.event_type) for event in await history(server, workflow_id="parent")]
        assert "EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED" in names

    on_virtual_server(test)


# -- where to ------------------------------------------------------------------------------------------------------
def test_no_point_tears_a_change_apart() -> None:
    """An activity's start is written together with its end; a run that has the one without the other never was."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule())
        activity = await server.activity_task()
        await signal(server)
        await complete_activity(server, activity)
        await server.decide(marker())
        assert (await types(server))[5:] == [
            "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED", "ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED",
            "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED", "MARKER_RECORDED",
        ]  # fmt: skip
        base = (await describe(server)).workflow_execution_info.execution.run_id
        taken: list[int] = []
        refused: dict[int, bool] = {}
        for event_id in range(2, 13):
            try:
                await reset(server, event_id, base)
            except ApiError as error:
                refused[event_id] = "this event must be at the boundary" in error.message
                continue
            taken.append(event_id)
            names = await types(server)
            assert names.count("ACTIVITY_TASK_STARTED") == names.count("ACTIVITY_TASK_COMPLETED")
        assert taken == [3, 4, 8, 10, 11]
        assert refused == {2: True, 5: True, 6: False, 7: True, 9: True, 12: True}

    on_virtual_server(test)


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "timed out"])
def test_a_run_goes_on_behind_a_task_that_was_to_be_tried_again(fails: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        await (fail(server, task) if fails else server.pass_time(10.1))
        await signal(server)
        base = (await describe(server)).workflow_execution_info.execution.run_id
        kept = (await types(server))[:4]
        new = await reset(server, 5, base)
        events = await history(server, new)
        assert await types(server) == [
            *kept, "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_SIGNALED",
            "WORKFLOW_TASK_SCHEDULED",
        ]  # fmt: skip
        assert events[4].workflow_task_scheduled_event_attributes.attempt == 1
        assert events[6].workflow_task_failed_event_attributes.new_run_id == new
        assert events[6].workflow_task_failed_event_attributes.scheduled_event_id == 5
        await reset(server, 6, base)
        assert (await types(server))[4:] == [
            "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_FAILED",
            "WORKFLOW_TASK_SCHEDULED",
        ]  # fmt: skip
        task = await poll(server)
        assert task.attempt == 1
        await complete(server, task, complete_workflow())
        assert (await types(server))[-1] == "WORKFLOW_EXECUTION_COMPLETED"

    on_virtual_server(test)


def test_no_task_is_tried_again_while_a_run_is_on_hold() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        hold = {"namespace": "default", "workflow_id": WORKFLOW_ID}
        await server.call("PauseWorkflowExecution", PauseWorkflowExecutionRequest(**hold))
        await fail(server, task)
        await server.call("UnpauseWorkflowExecution", UnpauseWorkflowExecutionRequest(**hold))
        assert (await types(server))[3:] == [
            "WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_PAUSED", "WORKFLOW_EXECUTION_UNPAUSED", "WORKFLOW_TASK_SCHEDULED",
        ]  # fmt: skip
        with pytest.raises(ApiError, match="Can only reset workflow to event ID in range"):
            await reset(server, 6)

    on_virtual_server(test)
