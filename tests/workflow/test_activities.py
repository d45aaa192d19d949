"""E2: the life of an activity, row by row of its table, on virtual time; every step is checked to follow from the journal."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import HOUR, SECOND
from perdure.core.errors import ApiError
from tests.support.activity_calls import (
    EXECUTION,
    cancel,
    complete,
    complete_workflow,
    fail,
    failure,
    heartbeat,
    refusal,
    request_cancel,
    schedule,
    seconds,
    signal,
)
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server, payloads

GONE = "invalid activityID or activity already timed out or invoking workflow is completed"
QUICK = RetryPolicy(initial_interval=seconds(1), backoff_coefficient=2)
ONCE = RetryPolicy(maximum_attempts=1)


def kinds(events: list[HistoryEvent]) -> list[str]:
    """What happened to activities, in order."""
    names = [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in events]
    return [name.removeprefix("ACTIVITY_TASK_") for name in names if name.startswith("ACTIVITY")]


async def begin(server: VirtualServer, **attributes: Any) -> None:
    """A workflow with one scheduled activity, event 5."""
    await server.start_workflow()
    await server.decide(schedule(**attributes))


def test_a_retried_activity_shows_its_last_failure_only() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        started = server.clock.now()
        for attempt in (1, 2, 3):
            task = await server.activity_task()
            assert task.attempt == attempt
            if attempt < 3:
                await fail(server, task, failure(f"attempt {attempt}"))
        assert 3 * SECOND <= server.clock.now() - started < 4 * SECOND
        await complete(server, task, payloads("1"))
        events = await server.history()
        assert kinds(events) == ["SCHEDULED", "STARTED", "COMPLETED"]
        attributes = events[5].activity_task_started_event_attributes
        assert (attributes.attempt, attributes.last_failure.message) == (3, "attempt 2")
        assert events[6].activity_task_completed_event_attributes.started_event_id == 6

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("attributes", "takes", "timeout_type", "message"),
    [
        ({"schedule_to_start_timeout": seconds(3)}, False, "SCHEDULE_TO_START", "activity ScheduleToStart timeout"),
        ({"schedule_to_close_timeout": seconds(3)}, False, "SCHEDULE_TO_START", "activity ScheduleToStart timeout"),
        ({"start_to_close_timeout": seconds(3), "retry_policy": ONCE}, True, "START_TO_CLOSE", "activity StartToClose timeout"),
        ({"heartbeat_timeout": seconds(3), "retry_policy": ONCE}, True, "HEARTBEAT", "activity Heartbeat timeout"),
        ({"schedule_to_close_timeout": seconds(3), "retry_policy": ONCE}, True, "SCHEDULE_TO_CLOSE", "Not enough time to schedule next"),
        ({"schedule_to_close_timeout": seconds(3)}, True, "SCHEDULE_TO_CLOSE", "Not enough time to schedule next retry before activity"),
    ],
)
def test_each_timeout_says_which_it_was(attributes: dict[str, Any], takes: bool, timeout_type: str, message: str) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, **attributes)
        if takes:
            await server.activity_task()
        await server.pass_time(5)
        events = await server.history()
        timed_out = next(e for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT)
        why = timed_out.activity_task_timed_out_event_attributes.failure
        assert why.message.startswith(message)
        assert TimeoutType.Name(why.timeout_failure_info.timeout_type) == f"TIMEOUT_TYPE_{timeout_type}"
        assert why.source == "Server"

    on_virtual_server(test)


def test_heartbeat_details_outlive_attempts_and_restarts() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK, heartbeat_timeout=seconds(10))
        task = await server.activity_task()
        await heartbeat(server, task, payloads('"one"'))
        await server.restart()
        await heartbeat(server, task, payloads('"two"'))
        await server.pass_time(11)
        task = await server.activity_task()
        assert (task.attempt, task.heartbeat_details.payloads[0].data) == (2, b'"two"')
        await fail(server, task, last_heartbeat_details=payloads('"three"'))
        await server.restart()
        task = await server.activity_task()
        assert (task.attempt, task.heartbeat_details.payloads[0].data) == (3, b'"three"')
        await heartbeat(server, task)
        await fail(server, task)
        task = await server.activity_task()
        assert not task.heartbeat_details.payloads

    on_virtual_server(test)


def test_a_nameless_worker_is_known_by_its_heartbeats() -> None:
    async def test(server: VirtualServer) -> None:
        async def known_as() -> str:
            described = await server.call(
                "DescribeWorkflowExecution", service.DescribeWorkflowExecutionRequest(namespace="default", execution=EXECUTION)
            )
            return described.pending_activities[0].last_worker_identity

        async def report(task: service.PollActivityTaskQueueResponse, identity: str) -> None:
            request = service.RecordActivityTaskHeartbeatRequest(namespace="default", task_token=task.task_token, identity=identity)
            await server.call("RecordActivityTaskHeartbeat", request)

        await begin(server, retry_policy=QUICK)
        nameless = service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE)
        task = await server.call("PollActivityTaskQueue", nameless)
        assert await known_as() == ""
        await report(task, "first")
        await report(task, "")
        await server.restart()
        assert await known_as() == "first"
        await fail(server, task)
        await server.pass_time(2)
        task = await server.call("PollActivityTaskQueue", nameless)
        assert await known_as() == "", "nobody has reported from this attempt"
        await fail(server, task)
        task = await server.activity_task()
        await report(task, "other")
        assert await known_as() == "worker"

    on_virtual_server(test)


def test_heartbeats_keep_an_attempt_alive_and_cost_no_timers() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, heartbeat_timeout=seconds(3), start_to_close_timeout=seconds(1000), retry_policy=ONCE)
        task = await server.activity_task()
        (partition,) = server.core.engine.partitions
        waiting = len(partition.timers)
        for _ in range(200):
            await server.pass_time(2)
            await heartbeat(server, task, payloads("1"))
            assert len(partition.timers) <= waiting + 2
        await server.pass_time(4)
        assert await refusal(heartbeat(server, task)) == GONE
        assert kinds(await server.history()) == ["SCHEDULED", "STARTED", "TIMED_OUT"]

    on_virtual_server(test)


def test_the_clock_is_set_back_between_two_heartbeats() -> None:
    """The timeout is earlier again than the one that the header leads to; the inspector looks."""

    async def test(server: VirtualServer) -> None:
        await begin(server, heartbeat_timeout=seconds(10), start_to_close_timeout=seconds(1000), retry_policy=ONCE)
        task = await server.activity_task()
        await server.pass_time(4)
        await heartbeat(server, task, payloads("1"))
        (partition,) = server.core.engine.partitions
        partition.cache.limit = 0
        partition.cache.trim()  # its header leads to it exactly from now on
        await server.pass_time(1)
        server.clock.jump(-HOUR)
        await heartbeat(server, task, payloads("2"))

    on_virtual_server(test)


def test_a_cancel_request_reaches_the_worker_by_heartbeat_and_ends_retries() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        task = await server.activity_task()
        assert not (await heartbeat(server, task)).cancel_requested
        assert "without activity being request canceled first" in await refusal(cancel(server, task))
        await signal(server)
        await server.decide(request_cancel(5))
        assert (await heartbeat(server, task)).cancel_requested
        await signal(server)
        assert "add-activitytask-cancel-requested-event" in await refusal(server.decide(request_cancel(5)))
        await fail(server, task)
        events = await server.history()
        assert kinds(events) == ["SCHEDULED", "CANCEL_REQUESTED", "STARTED", "FAILED"]
        ended = next(e for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED)
        assert ended.activity_task_failed_event_attributes.retry_state == RetryState.RETRY_STATE_CANCEL_REQUESTED

    on_virtual_server(test)


def test_an_activity_that_nobody_has_is_canceled_at_once() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule(), request_cancel(5), schedule("b"))
        names = [EventType.Name(event.event_type) for event in (await server.history())[4:]]
        assert [name.removeprefix("EVENT_TYPE_") for name in names] == [
            "ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_CANCEL_REQUESTED", "ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_CANCELED",
            "WORKFLOW_TASK_SCHEDULED",
        ]  # fmt: skip

    on_virtual_server(test)


def test_history_ends_with_the_close_even_when_the_closing_task_canceled_an_activity() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        await signal(server)
        await server.decide(request_cancel(5), complete_workflow())
        assert (await server.history())[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
        await server.restart()
        assert not (await server.state()).activities

    on_virtual_server(test)


def test_a_token_is_good_for_its_own_attempt_only() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        first = await server.activity_task()
        await fail(server, first)
        for answer in (heartbeat, complete, fail, cancel):
            assert await refusal(answer(server, first)) == GONE
        second = await server.activity_task()
        for answer in (heartbeat, complete, fail, cancel):
            assert await refusal(answer(server, first)) == GONE
        await complete(server, second)
        assert await refusal(complete(server, second)) == GONE
        await server.decide(complete_workflow())
        assert await refusal(complete(server, second)) == "workflow execution already completed"

    on_virtual_server(test)


def test_by_id_an_activity_can_be_completed_before_anybody_took_it() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        named: dict[str, Any] = {"namespace": "default", "workflow_id": WORKFLOW_ID, "activity_id": "a", "identity": "outside"}
        assert await refusal(server.call("RespondActivityTaskFailedById", service.RespondActivityTaskFailedByIdRequest(**named))) == GONE
        await server.call("RespondActivityTaskCompletedById", service.RespondActivityTaskCompletedByIdRequest(**named))
        events = await server.history()
        assert kinds(events) == ["SCHEDULED", "STARTED", "COMPLETED"]
        assert (events[5].activity_task_started_event_attributes.identity, events[5].activity_task_started_event_attributes.request_id) == (
            "outside",
            "",
        )
        assert not (await server.activity_task(3)).task_token

    on_virtual_server(test)


@pytest.mark.parametrize("answer", ["result", "heartbeat", "failure", "last heartbeat"])
def test_an_answer_that_is_too_large_fails_the_activity_but_not_the_call(answer: str) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=ONCE)
        task = await server.activity_task()
        huge = payloads("9" * 2000)
        told: Any = None
        if answer == "result":
            await complete(server, task, huge)
        elif answer == "heartbeat":
            assert (await heartbeat(server, task, huge)).cancel_requested
        elif answer == "failure":
            told = await fail(server, task, failure("x" * 2000, type="T"))
        else:
            told = await fail(server, task, last_heartbeat_details=huge)
        why = (await server.history())[6].activity_task_failed_event_attributes.failure
        expected = {
            "result": "Complete result exceeds size limit.", "heartbeat": "Heartbeat details exceed size limit.",
            "failure": "Failure exceeds size limit.", "last heartbeat": "no",
        }  # fmt: skip
        assert why.message == expected[answer]
        if answer == "failure":
            assert why.cause.application_failure_info.type == "T"
        assert [f.message for f in told.failures] == {
            "failure": ["Failure exceeds size limit."], "last heartbeat": ["Heartbeat details exceed size limit."]
        }[answer] if told is not None else True  # fmt: skip

    on_virtual_server(test, dynamic_config={"limit.blobSize.error": 1000, "limit.blobSize.warn": 500})


def test_the_failure_of_a_retrying_activity_is_kept_small() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        await fail(server, await server.activity_task(), failure("x" * 10_000, type="T"))
        (activity,) = (await server.state()).activities.values()
        assert activity.last_failure is not None
        assert activity.last_failure.message == "Failure exceeds size limit."
        assert activity.last_failure.ByteSize() < 5000
        assert (await server.activity_task()).attempt == 2

    on_virtual_server(test)


def test_every_end_of_an_attempt_is_counted() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        await fail(server, await server.activity_task())
        await server.pass_time(1.5)
        await server.activity_task()
        await server.pass_time(31)
        await complete(server, await server.activity_task())
        counted = server.core.registry.render()
        for line in (
            'activity_task_fail{service_name="history",operation="RespondActivityTaskFailed",namespace="default",taskqueue="queue"',
            'activity_task_timeout{service_name="history",operation="TimerActiveTaskActivityTimeout",namespace="default"',
            'activity_success{service_name="history",operation="RespondActivityTaskCompleted",namespace="default",taskqueue="queue"',
            "activity_schedule_to_close_latency_count{",
        ):
            assert line in counted
        assert "\nactivity_fail{" not in counted

    on_virtual_server(test)


def test_an_eager_activity_comes_with_the_answer_and_never_through_its_queue() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        response = await server.decide(schedule(request_eager_execution=True, retry_policy=QUICK), schedule("b"))
        (eager,) = response.activity_tasks
        assert (eager.activity_id, eager.attempt) == ("a", 1)
        assert (await server.activity_task()).activity_id == "b"
        assert not (await server.activity_task(3)).task_token
        await fail(server, eager)
        again = await server.activity_task()
        assert (again.activity_id, again.attempt) == ("a", 2)

    on_virtual_server(test)


def test_the_limit_of_pending_activities_refuses_one_more() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        message = await refusal(server.decide(schedule("a"), schedule("b"), schedule("c")))
        assert message == "PendingActivitiesLimitExceeded: the number of pending activities, 2, has reached the per-workflow limit of 2"
        assert not (await server.state()).activities

    on_virtual_server(test, dynamic_config={"limit.numPendingActivities.error": 2})


@pytest.mark.parametrize("seed", range(12))
def test_an_only_attempt_is_handed_out_once_whatever_the_store_does(seed: int) -> None:
    """Commits that fail, and commits of which nobody knows whether they happened, while workers poll and servers restart."""

    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=ONCE, start_to_close_timeout=seconds(60))
        handed_out = 0
        for round_number in range(6):
            server.store.faults.commit_fails = 0.3
            server.store.faults.commit_unknown = 0.4
            with suppress(ApiError):
                handed_out += bool((await server.activity_task(5)).task_token)
            server.store.faults.commit_fails = server.store.faults.commit_unknown = 0.0
            if round_number % 3 == 2:
                await server.restart()
        handed_out += bool((await server.activity_task(5)).task_token)
        assert handed_out <= 1
        (activity,) = (await server.state()).activities.values()
        assert activity.started_at > 0

    on_virtual_server(test, seed=seed)
