"""E3, E4: queries, direct and carried by workflow tasks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.errordetails.v1 import QueryFailedFailure
from temporalio.api.workflowservice import v1 as service
from temporalio.client import Client
from temporalio.service import RPCError

from perdure.core.clock import SECOND
from perdure.core.errors import ApiError, Code
from tests.support.task_calls import (
    EXECUTION,
    STICKY,
    answer_query,
    answers,
    complete,
    complete_workflow,
    elapse,
    fail,
    poll,
    query,
    signal,
    sticky,
    terminate,
    text_of,
    types,
)
from tests.support.virtual_server import QUEUE, VirtualServer, on_virtual_server


async def idle(server: VirtualServer) -> None:
    """A workflow whose first task is done."""
    await server.start_workflow()
    await server.decide()


def test_an_idle_workflow_answers_without_a_trace() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        before = await types(server)
        asked = query(server)
        task = await poll(server)
        assert (task.query.query_type, task.started_event_id, task.previous_started_event_id) == ("q", 0, 3)
        assert len(task.history.events) == len(before)
        await answer_query(server, task, '"idle"')
        assert text_of(await asked) == '"idle"'
        assert await types(server) == before

    on_virtual_server(test)


def test_an_answer_shows_the_signal_before_it() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        await signal(server)
        asked = query(server)
        await elapse(server, 0.001)
        task = await poll(server)
        assert len(task.queries) == 1
        await complete(server, task, query_results=answers(task, '"with the signal"'))
        assert text_of(await asked) == '"with the signal"'

    on_virtual_server(test)


def test_a_query_during_a_task_comes_after_it() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        asked = query(server)
        await elapse(server, 1)
        assert not task.queries
        await complete(server, task)
        direct = await poll(server)
        assert direct.HasField("query")
        await answer_query(server, direct, '"after"')
        assert text_of(await asked) == '"after"'

    on_virtual_server(test)


def test_a_task_that_ends_without_an_answer_leaves_the_query_to_the_next() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        await signal(server)
        asked = query(server)
        await elapse(server, 0.1)
        await fail(server, await poll(server))
        retry = await poll(server)
        assert len(retry.queries) == 1
        # The worker says nothing about it: it goes out as a task of its own.
        await complete(server, retry)
        await answer_query(server, await poll(server), '"late"')
        assert text_of(await asked) == '"late"'

    on_virtual_server(test)


def test_only_so_many_queries_wait_for_a_task() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        first = query(server)
        await elapse(server, 0.1)
        with pytest.raises(ApiError) as refused:
            await query(server)
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
        task = await poll(server)
        await complete(server, task, query_results=answers(task, "1"))
        await first

    on_virtual_server(test)


def test_a_run_that_closes_still_answers() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        await signal(server)
        asked = query(server)
        await elapse(server, 0.1)
        await terminate(server)
        task = await poll(server)
        assert task.HasField("query")
        await answer_query(server, task, '"closed"')
        assert text_of(await asked) == '"closed"'

    on_virtual_server(test)


def test_a_run_without_a_completed_task_cannot_answer_once_it_is_closed() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        asked = query(server, 5)
        await elapse(server, 0.1)
        await terminate(server)
        with pytest.raises(ApiError) as late:
            await asked
        with pytest.raises(ApiError) as refused:
            await query(server)
        assert late.value.code == Code.DEADLINE_EXCEEDED
        assert refused.value.message == "Workflow execution closed before WorkflowTaskStarted event"

    on_virtual_server(test)


def test_a_sticky_worker_gets_the_query_without_history() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky())
        polling = asyncio.ensure_future(poll(server, STICKY))
        await elapse(server, 0.1)
        asked = query(server)
        task = await polling
        assert not task.history.events
        await answer_query(server, task, "1")
        await asked

    on_virtual_server(test)


@pytest.mark.parametrize("polled_lately", [True, False])
def test_a_query_leaves_a_sticky_queue_whose_worker_is_gone(polled_lately: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(2))
        if polled_lately:
            await poll(server, STICKY, 3)
        begun = server.clock.now()
        asked = query(server)
        task = await poll(server)
        waited = server.clock.now() - begun
        assert (waited > SECOND) == polled_lately
        assert task.history.events
        await answer_query(server, task, "1")
        await asked
        assert not (await server.state()).sticky_queue

    on_virtual_server(test)


@pytest.mark.parametrize("is_direct", [True, False])
def test_an_answer_may_be_too_big(is_direct: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        if is_direct:
            await server.decide()
        asked = query(server)
        await elapse(server, 0.1)
        task = await poll(server)
        if is_direct:
            await answer_query(server, task, "x" * 1_000)
        else:
            await complete(server, task, query_results=answers(task, "x" * 1_000))
        with pytest.raises(ApiError) as refused:
            await asked
        assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, "Blob data size exceeds limit.")
        # To an SDK only the first is a query that failed.
        assert isinstance(refused.value.detail, QueryFailedFailure) == is_direct

    on_virtual_server(test, dynamic_config={"limit.blobSize.error": 1_000})


def test_a_worker_that_shuts_down_passes_the_query_on() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(60))
        await poll(server, STICKY, 3)
        asked = query(server)
        await elapse(server, 0.1)
        await server.call("ShutdownWorker", service.ShutdownWorkerRequest(namespace="default", sticky_task_queue=STICKY.name))
        await answer_query(server, await poll(server), "1")
        await asked

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("away", "message"),
    [
        (12, "no poller seen for task queue recently, worker may be down"),  # for 21 s when the caller is told, at the ninth second
        (10, "query timed out before a worker could process it"),
    ],
)
@pytest.mark.parametrize("more", [0, 40])
def test_the_caller_learns_that_nobody_polls(away: int, message: str, more: int) -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        await elapse(server, away + more)
        with pytest.raises(ApiError) as refused:
            await query(server, 10)
        assert refused.value.message == message

    on_virtual_server(test, dynamic_config={"matching.queryPollerUnavailableWindow": 20 + more} if more else {})


def test_a_queue_whose_worker_has_just_said_goodbye_gets_time_for_another() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        goodbye = service.ShutdownWorkerRequest(namespace="default", identity="worker", worker_instance_key="key", task_queue=QUEUE.name)
        await server.call("ShutdownWorker", goodbye)
        assert not (await server.call("DescribeTaskQueue", service.DescribeTaskQueueRequest(namespace="default", task_queue=QUEUE))).pollers
        with pytest.raises(ApiError) as refused:
            await query(server, 3)
        assert refused.value.message == "query timed out before a worker could process it"

    on_virtual_server(test)


def test_a_worker_that_never_answers_costs_the_deadline() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        asked = query(server, 30)
        task = await poll(server)
        with pytest.raises(ApiError) as late:
            await asked
        assert late.value.code == Code.DEADLINE_EXCEEDED
        with pytest.raises(ApiError) as gone:
            await answer_query(server, task, "1")
        assert gone.value.message == "query task not found, or already expired"

    on_virtual_server(test)


def test_an_abandoned_query_is_given_to_nobody() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        asked = query(server)
        await elapse(server, 0.1)
        asked.cancel()
        await elapse(server, 0.1)
        assert not (await poll(server, timeout=5)).task_token

    on_virtual_server(test)


def test_failing_tasks_make_queries_fail_at_once() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await fail(server, await poll(server))
        await fail(server, await poll(server))
        with pytest.raises(ApiError) as refused:
            await query(server)
        assert refused.value.message == "Unable to query workflow due to Workflow Task in failed state."
        await complete(server, await poll(server), complete_workflow())

    on_virtual_server(test)


async def test_queries_over_the_wire(client: Client) -> None:
    """Rejected, refused and answered, by the official SDK's raw client."""
    calls = client.workflow_service
    started = await calls.start_workflow_execution(
        service.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=EXECUTION.workflow_id,
            workflow_type=WorkflowType(name="W"),
            task_queue=QUEUE,
            request_id="1",
        )
    )
    poll_request = service.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
    task = await calls.poll_workflow_task_queue(poll_request)
    await calls.respond_workflow_task_completed(
        service.RespondWorkflowTaskCompletedRequest(task_token=task.task_token, commands=[complete_workflow()])
    )
    request = service.QueryWorkflowRequest(namespace="default", execution=EXECUTION, query={"query_type": "q"}, query_reject_condition=2)  # pyright: ignore
    rejected = await calls.query_workflow(request)
    assert rejected.query_rejected.status == 2
    request.query_reject_condition = 1  # pyright: ignore
    asked = asyncio.ensure_future(calls.query_workflow(request))
    direct = await calls.poll_workflow_task_queue(poll_request)
    assert direct.workflow_execution.run_id == started.run_id
    await calls.respond_query_task_completed(
        service.RespondQueryTaskCompletedRequest(task_token=direct.task_token, completed_type=2, error_message="no such query")  # pyright: ignore
    )
    with pytest.raises(RPCError, match="no such query"):
        await asked
    with pytest.raises(RPCError, match="WorkflowId is not set"):
        await calls.query_workflow(service.QueryWorkflowRequest(namespace="default", execution={}), timeout=timedelta(seconds=5))  # pyright: ignore
