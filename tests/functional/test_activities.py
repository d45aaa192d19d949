"""E2 through the official SDK: retries, heartbeats that outlive a worker, completion from outside, cancellation, eager activities."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetActivityRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutError, TimeoutType
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.waiting import until

QUEUE = "activities"
SECONDS = timedelta(seconds=1)
QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=10))

started: list[str] = []
"""Ids of the activities that wait for somebody outside."""


@activity.defn
async def resumes() -> list[int]:
    """Fails after each report; goes on where the attempt before left off."""
    done = list(activity.info().heartbeat_details)
    if len(done) == 3:
        return done
    activity.heartbeat(*done, activity.info().attempt)
    raise ApplicationError("again")


@activity.defn
async def falls_silent() -> None:
    activity.heartbeat("last words")
    await asyncio.Event().wait()


@activity.defn
async def waits_for_cancellation() -> None:
    async def report() -> bool:
        activity.heartbeat()
        return False

    await until(report)


@activity.defn
async def completed_outside() -> str:
    started.append(activity.info().activity_id)
    activity.raise_complete_async()


@activity.defn
async def wants_to_wait_for_ages() -> None:
    raise ApplicationError("later", next_retry_delay=timedelta(days=9_999 * 365))


@activity.defn
async def gives_up(message: str) -> None:
    raise ApplicationError(message, type="Hopeless")


@workflow.defn
class Resuming:
    @workflow.run
    async def run(self) -> list[int]:
        return await workflow.execute_activity(resumes, start_to_close_timeout=10 * SECONDS, retry_policy=QUICK)


@workflow.defn
class Silent:
    @workflow.run
    async def run(self) -> None:
        once = RetryPolicy(maximum_attempts=1)
        await workflow.execute_activity(
            falls_silent, start_to_close_timeout=60 * SECONDS, heartbeat_timeout=0.5 * SECONDS, retry_policy=once
        )


@workflow.defn
class Cancelling:
    @workflow.run
    async def run(self) -> str:
        handle = workflow.start_activity(
            waits_for_cancellation, start_to_close_timeout=60 * SECONDS, heartbeat_timeout=10 * SECONDS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip
        await workflow.sleep(0.2)
        handle.cancel()
        try:
            await handle
        except ActivityError as error:
            return type(error.cause).__name__
        return "not cancelled"


@workflow.defn
class Outside:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(completed_outside, start_to_close_timeout=60 * SECONDS)


@workflow.defn
class Hopeless:
    @workflow.run
    async def run(self) -> None:
        policy = RetryPolicy(non_retryable_error_types=["Hopeless"])
        await workflow.execute_activity(gives_up, "no use", start_to_close_timeout=10 * SECONDS, retry_policy=policy)


async def first_started() -> str:
    return started[0] if started else ""


def worker(client: Client) -> Worker:
    return Worker(
        client, task_queue=QUEUE, workflows=[Resuming, Silent, Cancelling, Outside, Hopeless],
        activities=[resumes, falls_silent, waits_for_cancellation, completed_outside, gives_up],
        workflow_runner=UnsandboxedWorkflowRunner(), graceful_shutdown_timeout=timedelta(0),
    )  # fmt: skip


async def test_attempts_go_on_from_heartbeats(client: Client) -> None:
    async with worker(client):
        assert await client.execute_workflow(Resuming.run, id="resuming", task_queue=QUEUE) == [1, 2, 3]


async def test_an_attempt_that_falls_silent_times_out_with_its_last_words(client: Client) -> None:
    async with worker(client):
        with pytest.raises(WorkflowFailureError) as caught:
            await client.execute_workflow(Silent.run, id="silent", task_queue=QUEUE)
    error = caught.value.cause
    assert isinstance(error, ActivityError)
    assert isinstance(error.cause, TimeoutError)
    assert (error.cause.type, error.cause.last_heartbeat_details) == (TimeoutType.HEARTBEAT, ["last words"])
    assert error.retry_state == RetryState.MAXIMUM_ATTEMPTS_REACHED


async def test_a_running_activity_is_cancelled(client: Client) -> None:
    async with worker(client):
        assert await client.execute_workflow(Cancelling.run, id="cancelling", task_queue=QUEUE) == "CancelledError"


async def test_an_activity_is_completed_from_outside_by_id(client: Client) -> None:
    async with worker(client):
        started.clear()
        handle = await client.start_workflow(Outside.run, id="outside", task_queue=QUEUE)
        activity_id = await until(first_started)
        await client.get_async_activity_handle(workflow_id="outside", run_id=None, activity_id=activity_id).complete("from outside")
        assert await handle.result() == "from outside"


async def test_a_named_error_type_is_not_retried(client: Client) -> None:
    async with worker(client):
        with pytest.raises(WorkflowFailureError) as caught:
            await client.execute_workflow(Hopeless.run, id="hopeless", task_queue=QUEUE)
    error = caught.value.cause
    assert isinstance(error, ActivityError)
    assert error.retry_state == RetryState.NON_RETRYABLE_FAILURE
    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.type, error.cause.message) == ("Hopeless", "no use")


@workflow.defn
class Waiting:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(wants_to_wait_for_ages, start_to_close_timeout=10 * SECONDS)


async def test_a_delay_that_outlives_every_clock_harms_nobody(client: Client) -> None:
    """It is cut to a hundred years. A time that no database can hold would fail the commit, with everybody's who shares it."""
    async with Worker(
        client, task_queue=QUEUE, workflows=[Waiting], activities=[wants_to_wait_for_ages], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        handle = await client.start_workflow(Waiting.run, id="ages", task_queue=QUEUE)

        async def is_put_off() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return bool(pending) and pending[0].attempt == 2

        await until(is_put_off)
        (pending,) = (await handle.describe()).raw_description.pending_activities
        assert pending.current_retry_interval.ToTimedelta() == timedelta(days=36_500)
        reset = ResetActivityRequest(namespace="default", execution=WorkflowExecution(workflow_id="ages"), id="1", identity="x")
        reset.jitter.seconds = 9_999 * 365 * 86_400
        await client.workflow_service.reset_activity(reset)
        (pending,) = (await handle.describe()).raw_description.pending_activities
        assert pending.scheduled_time.ToDatetime().year < 2150
