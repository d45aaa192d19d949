"""E3: workflow tasks that are in memory only, row by row of what ``task/speculative.py`` says about them."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, RecordMarkerCommandAttributes, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType, WorkerVersionCapabilities, WorkerVersionStamp, WorkflowExecution
from temporalio.api.enums.v1 import CommandType, TimeoutType
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskFailedRequest,
    SignalWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)

from perdure.core.errors import ApiError, Code
from tests.support.task_calls import poll, prioritize
from tests.support.update_calls import accept, complete, event_types, idle, next_task, reject, respond, update
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server

EXECUTION = WorkflowExecution(workflow_id=WORKFLOW_ID)
SCHEDULED, STARTED, DONE = "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED"
SIGNALED = "WORKFLOW_EXECUTION_SIGNALED"
MARKER = Command(
    command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=RecordMarkerCommandAttributes(marker_name="m")
)


async def signal(server: VirtualServer) -> None:
    await server.call(
        "SignalWorkflowExecution", SignalWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION, signal_name="s")
    )


def test_a_signal_before_the_start_makes_it_a_normal_task() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await server.pass_time(0.1)
        await signal(server)
        assert await event_types(server) == [SCHEDULED, SIGNALED]
        task = await next_task(server)
        assert task.attempt == 1
        await complete(server, task, messages=[reject(task.messages[0])])
        assert await event_types(server) == [SCHEDULED, SIGNALED, STARTED, DONE]
        await call

    on_virtual_server(test)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_task_made_normal_has_to_be_taken_in_time_as_before(restarted: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await server.pass_time(1)
        await signal(server)
        if restarted:
            await server.restart()
        await server.pass_time(3.9)
        assert await event_types(server) == [SCHEDULED, SIGNALED]
        await server.pass_time(0.2)
        assert await event_types(server) == [SCHEDULED, SIGNALED, "WORKFLOW_TASK_TIMED_OUT", SCHEDULED]
        timed_out = (await server.history())[-2].workflow_task_timed_out_event_attributes
        assert timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
        task = await next_task(server)
        assert (task.attempt, len(task.messages)) == (1, 0 if restarted else 1)
        await complete(server, task)
        call.cancel()

    on_virtual_server(test)


def test_a_change_of_priority_before_the_start_makes_it_a_normal_task() -> None:
    """What was decided before its events were written reads the same behind them."""

    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await server.pass_time(0.1)
        await prioritize(server, WORKFLOW_ID, 1)
        task = await next_task(server)
        await complete(server, task, messages=[reject(task.messages[0])])
        assert await event_types(server) == [SCHEDULED, "WORKFLOW_EXECUTION_OPTIONS_UPDATED", STARTED, DONE]
        await call

    on_virtual_server(test)


def test_a_signal_after_the_start_makes_it_a_normal_task_and_waits_for_its_end() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        await signal(server)
        assert await event_types(server) == [SCHEDULED, STARTED]
        await complete(server, task, messages=[reject(task.messages[0])])
        assert await event_types(server) == [SCHEDULED, STARTED, DONE, SIGNALED, SCHEDULED]
        await call

    on_virtual_server(test)


@pytest.mark.parametrize("signaled", [True, False])
@pytest.mark.parametrize("is_speculative", [True, False])
def test_the_pages_of_its_history_end_with_its_start(is_speculative: bool, signaled: bool) -> None:
    """Also when they are read partly before and partly after it was written."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await next_task(server)
        for _ in range(300):
            answer = await complete(server, task, force_create_new_workflow_task=True, return_new_workflow_task=True)
            task = answer.workflow_task
        await complete(server, task)
        asked = update(server, "u") if is_speculative else None
        if asked is None:
            await signal(server)
        task = await next_task(server)
        if signaled:
            await signal(server)
        ids = [event.event_id for event in task.history.events]
        token = task.next_page_token
        assert token
        while token:
            request = GetWorkflowExecutionHistoryRequest(namespace="default", execution=task.workflow_execution, next_page_token=token)
            page = await server.call("GetWorkflowExecutionHistory", request)
            ids += [event.event_id for event in page.history.events]
            token = page.next_page_token
        assert ids == [*range(1, task.started_event_id + 1)]
        if asked is not None:
            await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
            await asked

    on_virtual_server(test)


def test_a_normal_task_survives_a_restart_of_the_server_while_it_runs() -> None:
    """It was made normal by a signal: from then on it is promised."""

    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        await signal(server)
        await server.restart()
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        assert (await event_types(server))[:3] == [SCHEDULED, STARTED, DONE]
        call.cancel()

    on_virtual_server(test)


def test_a_restart_loses_it_without_harm() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        update(server, "u").cancel()
        call = update(server, "u")
        task = await next_task(server)
        await server.restart()
        call.cancel()
        with pytest.raises(ApiError) as raised:
            await complete(server, task, messages=[reject(task.messages[0])])
        assert (raised.value.code, raised.value.message) == (Code.NOT_FOUND, "Workflow task not found.")
        assert await event_types(server) == []
        call = update(server, "u")
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        await call

    on_virtual_server(test)


def test_a_late_answer_to_a_discarded_task_is_not_taken_for_the_next_one() -> None:
    """Both have the same event ids."""

    async def test(server: VirtualServer) -> None:
        await idle(server)
        first, second = update(server, "u"), None
        task = await next_task(server)
        await complete(server, task, messages=[reject(task.messages[0])])
        await first
        second = update(server, "v")
        next_one = await next_task(server)
        assert next_one.started_event_id == task.started_event_id
        with pytest.raises(ApiError):
            await complete(server, task, messages=[reject(task.messages[0])])
        await complete(server, next_one, messages=[reject(next_one.messages[0])])
        assert (await second).outcome.failure.message == "no"

    on_virtual_server(test)


def test_an_answer_that_is_too_late_counts_as_a_timeout() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await next_task(server)
        await server.pass_time(10.5)
        assert await event_types(server) == [SCHEDULED, STARTED, "WORKFLOW_TASK_TIMED_OUT", SCHEDULED]
        task = await next_task(server)
        assert task.attempt == 2
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        await call

    on_virtual_server(test)


def test_without_a_worker_it_becomes_a_normal_task() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await server.pass_time(4.9)
        assert await event_types(server) == [SCHEDULED]  # shown, but not written
        await server.pass_time(0.2)
        events = (await server.history())[4:]
        timed_out = events[1].workflow_task_timed_out_event_attributes
        assert await event_types(server) == [SCHEDULED, "WORKFLOW_TASK_TIMED_OUT", SCHEDULED]
        assert timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
        await server.restart()
        call.cancel()
        assert (await next_task(server)).started_event_id == 8

    on_virtual_server(test)


def test_a_failure_is_written() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        await server.call("RespondWorkflowTaskFailed", RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token))
        assert (await event_types(server))[:3] == [SCHEDULED, STARTED, "WORKFLOW_TASK_FAILED"]
        task = await next_task(server)
        assert task.attempt == 2
        assert task.messages
        await complete(server, task, messages=[reject(task.messages[0])])
        await call

    on_virtual_server(test)


@pytest.mark.parametrize(("end", "shown"), [("complete", "told"), ("fail", "told"), ("time out", ""), ("signal", "")])
def test_its_started_event_shows_the_version_that_the_answer_tells(end: str, shown: str) -> None:
    """Nothing of the version that the poll told: neither to the worker, nor in history when there was no answer."""

    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await poll(server, worker_version_capabilities=WorkerVersionCapabilities(build_id="polled"))
        started = task.history.events[-1].workflow_task_started_event_attributes
        assert (started.identity, started.HasField("worker_version")) == ("worker", False)
        stamp = WorkerVersionStamp(build_id="told")
        if end == "complete":
            await complete(server, task, accept(task.messages[0]), respond(task.messages[0]), worker_version_stamp=stamp)
        elif end == "fail":
            failed = RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token, identity="worker")
            failed.worker_version.CopyFrom(stamp)  # pyright: ignore[reportDeprecated]
            await server.call("RespondWorkflowTaskFailed", failed)
        elif end == "time out":
            await server.pass_time(10.1)
        else:
            await signal(server)
        written = (await server.history())[5].workflow_task_started_event_attributes
        assert (written.identity, written.worker_version.build_id) == ("worker" if shown else "", shown)
        assert written.HasField("worker_version") == bool(shown)
        call.cancel()

    on_virtual_server(test)


def test_a_command_beside_the_rejection_is_written() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        response = await complete(server, task, commands=[MARKER], messages=[reject(task.messages[0])])
        assert response.reset_history_event_id == 0
        assert await event_types(server) == [SCHEDULED, STARTED, DONE, "MARKER_RECORDED"]
        await call

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("markers", "capable", "discarded"), [(0, False, True), (1, False, False), (1, True, True), (10, True, True), (11, True, False)]
)
def test_it_is_discarded_only_if_the_worker_can_forget_what_it_was_shown(markers: int, capable: bool, discarded: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(*[MARKER] * markers)
        call = update(server, "u")
        task = await next_task(server)
        capabilities = RespondWorkflowTaskCompletedRequest.Capabilities(discard_speculative_workflow_task_with_events=capable)
        response = await complete(server, task, messages=[reject(task.messages[0])], capabilities=capabilities)
        assert bool(response.reset_history_event_id) == discarded
        assert (DONE in await event_types(server)) == (not discarded)
        await call

    on_virtual_server(test)


def test_an_activity_may_end_while_it_runs() -> None:
    async def test(server: VirtualServer) -> None:
        attributes = ScheduleActivityTaskCommandAttributes(
            activity_id="a", activity_type=ActivityType(name="A"), task_queue=QUEUE, start_to_close_timeout=Duration(seconds=60)
        )
        schedule = Command(
            command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, schedule_activity_task_command_attributes=attributes
        )
        await server.start_workflow()
        await server.decide(schedule)
        activity = await server.activity_task()
        call = update(server, "u")
        task = await next_task(server)
        await server.call(
            "RespondActivityTaskCompleted", RespondActivityTaskCompletedRequest(namespace="default", task_token=activity.task_token)
        )
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        await call
        assert (await event_types(server))[1:] == [
            SCHEDULED, STARTED, DONE, "WORKFLOW_EXECUTION_UPDATE_ACCEPTED", "WORKFLOW_EXECUTION_UPDATE_COMPLETED",
            "ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED", SCHEDULED,
        ]  # fmt: skip

    on_virtual_server(test)


@pytest.mark.parametrize("started", [False, True])
def test_it_ends_with_its_run(started: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await server.pass_time(0.1)
        if started:
            await next_task(server)
        await server.call(
            "TerminateWorkflowExecution", TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION)
        )
        written = [SCHEDULED, STARTED, "WORKFLOW_TASK_FAILED"] if started else []
        assert await event_types(server) == [*written, "WORKFLOW_EXECUTION_TERMINATED"]
        with pytest.raises(ApiError, match="aborted by closing workflow"):
            await call
        assert not (await next_task(server, 3)).task_token

    on_virtual_server(test)


def test_updates_that_arrive_while_a_task_runs_come_with_its_answer() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await next_task(server)
        call = update(server, "u")
        await server.pass_time(0.1)
        response = await complete(server, task, return_new_workflow_task=True)
        following = response.workflow_task
        assert [message.protocol_instance_id for message in following.messages] == ["u"]
        await complete(server, following, messages=[reject(following.messages[0])])
        await call
        assert await event_types(server) == []

    on_virtual_server(test)


def test_an_update_does_not_wait_for_the_start_delay() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow(workflow_start_delay=Duration(seconds=60))
        call = update(server, "u")
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        await call
        await signal(server)
        assert (await next_task(server, 5)).task_token

    on_virtual_server(test)
