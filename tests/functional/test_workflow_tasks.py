"""E3: workflow tasks: sticky queues, retries, heartbeats, completions in pages, limits, and workers that vanish."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import WorkflowTaskCompletionBufferLostFailure
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import MINUTE, SECOND
from perdure.core.errors import ApiError, Code
from tests.support.activity_calls import schedule
from tests.support.task_calls import (
    EXECUTION,
    STICKY,
    cancel_timer,
    complete,
    complete_workflow,
    elapse,
    fail,
    leave_at_once,
    marker,
    nameless_timer,
    poll,
    poll_and_leave,
    signal,
    sticky,
    timer,
    types,
)
from tests.support.virtual_server import QUEUE, VirtualServer, on_virtual_server

Cause = WorkflowTaskFailedCause
STARTED = ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED"]


def test_a_worker_that_says_nothing_loses_its_task() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        lost = await poll(server)
        second = await poll(server)
        assert (lost.attempt, second.attempt) == (1, 2)
        with pytest.raises(ApiError, match="Workflow task not found"):
            await complete(server, lost, complete_workflow())
        await complete(server, second, complete_workflow())
        assert (await types(server))[3] == "WORKFLOW_TASK_TIMED_OUT"

    on_virtual_server(test)


def test_a_refused_command_is_recorded_once_and_then_waits_for_the_timeout() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        with pytest.raises(ApiError, match="TimerId is not set"):
            await complete(server, await poll(server), nameless_timer())
        second = await poll(server)
        begun = server.clock.now()
        with pytest.raises(ApiError, match="TimerId is not set"):
            await complete(server, second, nameless_timer())
        third = await poll(server)
        assert server.clock.now() - begun >= 10 * SECOND
        assert third.attempt == 3
        await complete(server, third, complete_workflow())
        assert (await types(server)).count("WORKFLOW_TASK_FAILED") == 1

    on_virtual_server(test)


def test_a_sticky_worker_gets_the_new_events_only() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky())
        polling = asyncio.ensure_future(poll(server, STICKY))
        await elapse(server, 0.1)
        await signal(server)
        task = await polling
        assert [event.event_id for event in task.history.events] == [4, 5, 6, 7]
        assert task.previous_started_event_id == 3

    on_virtual_server(test)


def test_a_sticky_worker_that_is_gone_is_passed_over_and_forgotten() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(60))
        await poll(server, STICKY, 3)
        await elapse(server, 11)
        await signal(server)
        begun = server.clock.now()
        task = await poll(server)
        assert server.clock.now() == begun
        assert task.history.events[0].event_id == 1
        assert not (await server.state()).sticky_queue

    on_virtual_server(test)


def test_a_sticky_task_that_nobody_takes_times_out() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(2))
        await poll(server, STICKY, 3)
        await signal(server)
        task = await poll(server)
        assert task.attempt == 1
        assert (await types(server))[4:8] == [
            "WORKFLOW_EXECUTION_SIGNALED",
            "WORKFLOW_TASK_SCHEDULED",
            "WORKFLOW_TASK_TIMED_OUT",
            "WORKFLOW_TASK_SCHEDULED",
        ]

    on_virtual_server(test)


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_task_that_was_on_a_sticky_queue_still_times_out_when_that_is_given_up(is_taken: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(2))
        await poll(server, STICKY, 3)
        await signal(server)
        reset = service.ResetStickyTaskQueueRequest(namespace="default", execution=EXECUTION)
        await server.call("ResetStickyTaskQueue", reset)
        if is_taken:
            assert (await poll(server)).history.events[0].event_id == 1
        await elapse(server, 2.1)
        after = ["WORKFLOW_TASK_STARTED"] if is_taken else ["WORKFLOW_TASK_TIMED_OUT", "WORKFLOW_TASK_SCHEDULED"]
        assert (await types(server))[5:] == ["WORKFLOW_TASK_SCHEDULED", *after]

    on_virtual_server(test)


def test_heartbeats_end_after_half_an_hour_without_progress() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        begun = server.clock.now()
        while server.clock.now() - begun <= 30 * MINUTE - 5 * SECOND:
            await elapse(server, 5)
            answer = await complete(server, task, force_create_new_workflow_task=True, return_new_workflow_task=True)
            task = answer.workflow_task
        await elapse(server, 5)
        with pytest.raises(ApiError) as ended:
            await complete(server, task, force_create_new_workflow_task=True, return_new_workflow_task=True)
        assert (ended.value.code, ended.value.message) == (Code.NOT_FOUND, "workflow task heartbeat timeout")
        await complete(server, await poll(server), complete_workflow())

    on_virtual_server(test)


def test_a_heartbeat_with_commands_is_progress() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        for _ in range(40):
            await elapse(server, 9)
            answer = await complete(server, task, marker(), force_create_new_workflow_task=True, return_new_workflow_task=True)
            task = answer.workflow_task
        state = await server.state()
        assert state.task.original_scheduled_at == state.task.scheduled_at

    on_virtual_server(test)


def test_pages_are_one_completion() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        await complete(server, task, marker("two"), page_number=1, intermediate_page=True)
        await complete(server, task, marker("one"), page_number=0, intermediate_page=True)
        await complete(server, task, complete_workflow(), page_number=2)
        events = await server.history()
        names = [e.marker_recorded_event_attributes.marker_name for e in events if e.event_type == EventType.EVENT_TYPE_MARKER_RECORDED]
        assert names == ["one", "two"]

    on_virtual_server(test)


def test_lost_pages_are_asked_for_again() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        await complete(server, task, marker("one"), page_number=0, intermediate_page=True)
        await server.restart()
        with pytest.raises(ApiError) as lost:
            await complete(server, task, complete_workflow(), page_number=1)
        assert lost.value.code == Code.ABORTED
        await complete(server, task, marker("one"), page_number=0, intermediate_page=True)
        await complete(server, task, complete_workflow(), page_number=1)
        assert (await types(server))[-2:] == ["MARKER_RECORDED", "WORKFLOW_EXECUTION_COMPLETED"]

    on_virtual_server(test)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("end", ["last page", "timeout", "termination"])
def test_the_pages_of_all_tasks_are_bounded(share: float, end: str) -> None:
    """What is too much now has room again once other pages have gone."""
    page = marker("m" * 1_000)
    bounds = {
        "history.workflowTaskCompletionBufferTotalSizeLimit": int(2.5 * page.ByteSize() / share),
        "history.workflowTaskCompletionBufferNamespaceRatio": share,
    }

    async def test(server: VirtualServer) -> None:
        tasks: list[service.PollWorkflowTaskQueueResponse] = []
        for name in ("first", "second"):
            await server.start_workflow(name)
            tasks.append(await poll(server))
        first, second = tasks
        await complete(server, first, page, page_number=0, intermediate_page=True)
        await complete(server, second, page, page_number=0, intermediate_page=True)
        with pytest.raises(ApiError, match="memory limit reached while buffering page 1") as lost:
            await complete(server, second, page, page_number=1, intermediate_page=True)
        assert isinstance(lost.value.detail, WorkflowTaskCompletionBufferLostFailure)
        with pytest.raises(ApiError, match="buffer lost"):
            await complete(server, second, complete_workflow(), page_number=1)
        await complete(server, second, page, page_number=0, intermediate_page=True)
        if end == "last page":
            await complete(server, first, complete_workflow(), page_number=1)
        elif end == "termination":
            request = service.TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=first.workflow_execution)
            await server.call("TerminateWorkflowExecution", request)
        else:
            await elapse(server, 11)
            second = next(task for task in (await poll(server), await poll(server)) if task.workflow_execution.workflow_id == "second")
            await complete(server, second, page, page_number=0, intermediate_page=True)
        await complete(server, second, page, page_number=1, intermediate_page=True)
        await complete(server, second, complete_workflow(), page_number=2)

    on_virtual_server(test, dynamic_config=bounds)


def test_too_much_in_pages_ends_the_run() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        await complete(server, task, marker("x" * 60), page_number=0, intermediate_page=True)
        with pytest.raises(ApiError, match="completion buffer size exceeds"):
            await complete(server, task, marker("x" * 60), page_number=1, intermediate_page=True)
        assert (await types(server))[-2:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_TERMINATED"]

    on_virtual_server(test, dynamic_config={"history.workflowTaskCompletionBufferSizeLimit": 100})


def test_events_that_pile_up_behind_a_task_end_it() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await poll(server)
        for _ in range(6):
            await signal(server)
        events = await server.history()
        failed = events[3].workflow_task_failed_event_attributes
        assert failed.cause == Cause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
        assert failed.identity == "history-service"
        assert (await types(server))[4:] == ["WORKFLOW_EXECUTION_SIGNALED"] * 6 + ["WORKFLOW_TASK_SCHEDULED"]

    on_virtual_server(test, dynamic_config={"history.maximumBufferedEventsBatch": 5})


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"limit.historyCount.error": 20}, "Workflow history count exceeds limit."),
        ({"limit.historySize.error": 2000}, "Workflow history size exceeds limit."),
        ({"limit.mutableStateSize.error": 2000}, "Workflow mutable state size exceeds limit."),
    ],
)
def test_a_run_over_its_limit_ends_instead_of_growing(limit: dict[str, int], reason: str) -> None:
    """Who asked for what was too much is told why; nothing of it is recorded."""
    buffers = "limit.mutableStateSize.error" in limit

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        if buffers:
            await poll(server)
        taken = 0
        refused: ApiError | None = None
        while refused is None:
            try:
                await signal(server)
                taken += 1
            except ApiError as error:
                refused = error
        assert (refused.code, refused.message) == (Code.INVALID_ARGUMENT, reason)
        events = await server.history()
        last = events[-1].workflow_execution_terminated_event_attributes
        assert (last.reason, last.identity) == (reason, "history-service")
        assert (await types(server)).count("WORKFLOW_EXECUTION_SIGNALED") == taken > 10
        with pytest.raises(ApiError, match="workflow execution already completed"):
            await signal(server)

    on_virtual_server(test, dynamic_config=limit)


@pytest.mark.parametrize(("limit", "value"), [("limit.historyCount.error", 50), ("limit.historySize.error", 1000)])
def test_what_a_worker_adds_to_a_run_over_its_limit_is_not_done(limit: str, value: int) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        more = {"force_create_new_workflow_task": True, "return_new_workflow_task": True}
        # Of a size that is too much only the next answer hears.
        response = await complete(server, await poll(server), *[marker()] * 30, **more)
        with pytest.raises(ApiError, match="exceeds limit") as refused:
            await complete(server, response.workflow_task, *[marker()] * 30, **more)
        assert refused.value.code == Code.INVALID_ARGUMENT
        assert (await types(server))[4:] == [
            *["MARKER_RECORDED"] * 30,
            "WORKFLOW_TASK_SCHEDULED",
            "WORKFLOW_TASK_STARTED",
            "WORKFLOW_TASK_FAILED",
            "WORKFLOW_EXECUTION_TERMINATED",
        ]

    on_virtual_server(test, dynamic_config={limit: value})


def test_a_run_over_its_limit_ends_behind_what_happens_by_itself() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), timer("t", seconds=5), *[marker()] * 4)
        await elapse(server, 6)
        assert (await types(server))[-2:] == ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_EXECUTION_TERMINATED"]
        assert "TIMER_FIRED" in await types(server)

    on_virtual_server(test, dynamic_config={"limit.historyCount.error": 10})


def test_a_long_history_is_asked_to_continue_as_new() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        first = await poll(server)
        assert not first.history.events[-1].workflow_task_started_event_attributes.suggest_continue_as_new
        await complete(server, first, *[marker()] * 10)
        await signal(server)
        started = (await poll(server)).history.events[-1].workflow_task_started_event_attributes
        assert started.suggest_continue_as_new
        assert list(started.suggest_continue_as_new_reasons) == [2]

    on_virtual_server(test, dynamic_config={"limit.historyCount.suggestContinueAsNew": 10})


def test_a_message_too_large_for_the_worker_ends_the_run() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await fail(server, await poll(server), Cause.WORKFLOW_TASK_FAILED_CAUSE_GRPC_MESSAGE_TOO_LARGE)
        last = (await server.history())[-1].workflow_execution_terminated_event_attributes
        assert last.reason == "GrpcMessageTooLarge"

    on_virtual_server(test)


def test_a_cancelled_activity_schedules_one_task_behind_all_commands() -> None:
    async def test(server: VirtualServer) -> None:
        from tests.support.activity_calls import request_cancel

        await server.start_workflow()
        await complete(server, await poll(server), schedule())
        await signal(server)
        await complete(server, await poll(server), request_cancel(5), marker(), marker())
        assert (await types(server))[-5:] == [
            "ACTIVITY_TASK_CANCEL_REQUESTED",
            "MARKER_RECORDED",
            "MARKER_RECORDED",
            "ACTIVITY_TASK_CANCELED",
            "WORKFLOW_TASK_SCHEDULED",
        ]

    on_virtual_server(test)


@pytest.mark.parametrize("is_paused", [False, True])
def test_what_a_closing_task_has_caused_is_not_told(is_paused: bool) -> None:
    """There is nobody left to be told that the activity is canceled; a paused one is no longer counted, once."""

    async def test(server: VirtualServer) -> None:
        from tests.support.activity_calls import control, request_cancel

        await server.start_workflow()
        await complete(server, await poll(server), schedule())
        if is_paused:
            await control(server, "PauseActivity")
        await signal(server)
        await complete(server, await poll(server), request_cancel(5), complete_workflow())
        assert (await types(server))[-2:] == ["ACTIVITY_TASK_CANCEL_REQUESTED", "WORKFLOW_EXECUTION_COMPLETED"]

    on_virtual_server(test)


def test_a_timer_that_fires_too_late_does_not_hold_up_the_end() -> None:
    """Its worker has canceled it: nothing is left that the worker does not know."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), *(timer(name, seconds=5) for name in ("x", "y")))
        await signal(server)
        task = await poll(server)
        await elapse(server, 6)
        with pytest.raises(ApiError, match="UnhandledCommand"):
            await complete(server, task, cancel_timer("x"), complete_workflow())
        assert (await types(server))[-4:] == ["WORKFLOW_TASK_FAILED", "TIMER_FIRED", "TIMER_FIRED", "WORKFLOW_TASK_SCHEDULED"]

        await complete(server, await poll(server), timer("z", seconds=5))
        await signal(server)
        task = await poll(server)
        await elapse(server, 6)
        await complete(server, task, cancel_timer("z"), complete_workflow())
        assert (await types(server))[-3:] == ["WORKFLOW_TASK_COMPLETED", "TIMER_CANCELED", "WORKFLOW_EXECUTION_COMPLETED"]

    on_virtual_server(test)


@pytest.mark.parametrize("is_retry", [False, True])
def test_a_run_that_tries_again_to_close_lets_no_signal_in(is_retry: bool) -> None:
    """Otherwise a run that is signaled all the time could never end. is_retry: the task that was refused was not the first attempt."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        if is_retry:
            await fail(server, await poll(server))
        task = await poll(server)
        await signal(server)
        with pytest.raises(ApiError, match="UnhandledCommand"):
            await complete(server, task, complete_workflow())
        again = await poll(server)
        with pytest.raises(ApiError, match="workflow is closing") as refused:
            await signal(server)
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
        await complete(server, again, complete_workflow())
        assert (await types(server))[-1] == "WORKFLOW_EXECUTION_COMPLETED"

    on_virtual_server(test)


def test_a_client_that_is_gone_takes_no_task() -> None:
    async def test(server: VirtualServer) -> None:
        request = service.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="gone")
        gone = asyncio.ensure_future(poll_and_leave(server, "PollWorkflowTaskQueue", request, lambda: False))
        await elapse(server, 0.1)
        await server.start_workflow()
        task = await poll(server)
        assert task.attempt == 1
        assert task.history.events[-1].workflow_task_started_event_attributes.identity == "worker"
        gone.cancel()

    on_virtual_server(test)


def test_an_attempt_comes_back_uncounted_when_its_client_leaves_before_the_answer() -> None:
    async def test(server: VirtualServer) -> None:
        from temporalio.api.common.v1 import RetryPolicy

        await server.start_workflow()
        await complete(server, await poll(server), schedule(retry_policy=RetryPolicy(maximum_attempts=1)))
        await leave_at_once(
            server, "PollActivityTaskQueue", service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="gone")
        )
        begun = server.clock.now()
        task = await server.activity_task()
        assert server.clock.now() - begun < SECOND
        assert task.attempt == 1

    on_virtual_server(test)


def test_a_poll_that_is_cancelled_while_it_gets_a_task_gives_it_back() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), schedule())
        server.store.stall()  # the attempt begins, and that does not become durable
        polls = [asyncio.ensure_future(server.activity_task()) for _ in range(5)]
        await elapse(server, 0.1)
        for one in polls:
            one.cancel()
        await elapse(server, 0.1)
        server.store.resume()
        begun = server.clock.now()
        task = await server.activity_task()
        assert task.attempt == 1
        assert server.clock.now() - begun < SECOND

    on_virtual_server(test)
