"""E2: what an operator does to a pending activity, row by row of its table."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Priority, RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice import v1 as service

from perdure.engine.partition import SNAPSHOT_ROWS
from perdure.features.workflow.activity.pending import pending_activity_info
from tests.support.activity_calls import EXECUTION, complete, control, fail, failure, heartbeat, refusal, schedule, seconds, signal
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server, payloads

SLOW = RetryPolicy(initial_interval=seconds(600), maximum_interval=seconds(6000))
QUICK = RetryPolicy(initial_interval=seconds(1))
NOT_FOUND = "Can't find pending activity with such ID. Invalid activityID or activity already completed"


async def begin(server: VirtualServer, **attributes: Any) -> None:
    await server.start_workflow()
    await server.decide(schedule(**attributes))


async def shown(server: VirtualServer) -> PendingActivityInfo:
    """The only pending activity, as people see it."""
    (activity,) = (await server.state()).activities.values()
    return pending_activity_info(activity, server.clock.now())


async def state_of(server: VirtualServer) -> str:
    return PendingActivityState.Name((await shown(server)).state).removeprefix("PENDING_ACTIVITY_STATE_")


def test_a_paused_activity_is_not_handed_out_and_does_not_time_out() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, schedule_to_close_timeout=seconds(30))
        await control(server, "PauseActivity", identity="me", reason="why", request_id="p")
        await control(server, "PauseActivity", request_id="p")
        assert await refusal(control(server, "PauseActivity")) == "activity is already paused"
        info = await shown(server)
        assert (info.paused, info.pause_info.manual.identity, info.pause_info.manual.reason) == (True, "me", "why")
        assert await state_of(server) == "PAUSED"
        assert not (await server.activity_task(20)).task_token
        await server.restart()
        assert not (await server.activity_task(20)).task_token
        await control(server, "UnpauseActivity")
        await server.pass_time(0.1)
        events = await server.history()
        assert events[5].event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT, "its time was up while it was paused"

    on_virtual_server(test)


def test_a_running_attempt_is_told_of_the_pause_and_its_failure_waits() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=RetryPolicy(initial_interval=seconds(1), maximum_attempts=2))
        await fail(server, await server.activity_task())
        task = await server.activity_task()
        await control(server, "PauseActivity")
        assert await state_of(server) == "PAUSE_REQUESTED"
        assert (await heartbeat(server, task, payloads("1"))).activity_paused
        await server.pass_time(31)
        assert await state_of(server) == "PAUSE_REQUESTED", "nothing times out meanwhile"
        await fail(server, task, failure("paused"))
        info = await shown(server)
        assert (info.attempt, info.last_failure.message, await state_of(server)) == (3, "paused", "PAUSED")
        await control(server, "UnpauseActivity", reset_attempts=True, reset_heartbeat=True)
        await control(server, "UnpauseActivity")
        task = await server.activity_task()
        assert (task.attempt, len(task.heartbeat_details.payloads)) == (1, 0)
        await complete(server, task)

    on_virtual_server(test)


def test_reset_ends_a_backoff_and_begins_again() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=SLOW)
        task = await server.activity_task()
        await heartbeat(server, task, payloads("1"))
        await fail(server, task)
        assert (await shown(server)).current_retry_interval == seconds(600)
        await control(server, "ResetActivity")
        task = await server.activity_task(1.9 + 1)
        assert (task.attempt, len(task.heartbeat_details.payloads)) == (1, 1)
        await fail(server, task)
        await control(server, "PauseActivity")
        await control(server, "ResetActivity", keep_paused=True, reset_heartbeat=True)
        assert (await state_of(server), (await shown(server)).HasField("heartbeat_details")) == ("PAUSED", True)
        await control(server, "ResetActivity")
        assert not (await server.activity_task()).heartbeat_details.payloads

    on_virtual_server(test)


def test_a_token_from_before_a_reset_is_stale_although_the_count_is_the_same() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=SLOW)
        before = await server.activity_task()
        await fail(server, before)
        await control(server, "ResetActivity")
        after = await server.activity_task()
        assert before.attempt == after.attempt == 1
        assert "invalid activityID" in await refusal(complete(server, before))
        await complete(server, after)

    on_virtual_server(test)


def test_taking_the_details_from_a_running_attempt_does_not_time_it_out() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, heartbeat_timeout=seconds(5), start_to_close_timeout=seconds(100))
        task = await server.activity_task()
        for _ in range(3):
            await server.pass_time(4)
            await heartbeat(server, task, payloads("1"))
        await control(server, "PauseActivity")
        await control(server, "UnpauseActivity", reset_heartbeat=True)
        await server.pass_time(3)
        await complete(server, task)

    on_virtual_server(test)


def test_details_that_were_taken_do_not_come_back_with_a_snapshot() -> None:
    """A snapshot holds the details of its time."""

    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=SLOW)
        first = await server.activity_task()
        await heartbeat(server, first, payloads("1"))
        await fail(server, first)
        for _ in range(SNAPSHOT_ROWS):
            await signal(server)
        (partition,) = server.core.engine.partitions
        partition.cache.limit = 1
        partition.cache.trim()
        await control(server, "PauseActivity")
        await control(server, "UnpauseActivity", reset_heartbeat=True)
        assert not len(partition.cache)
        assert not (await shown(server)).HasField("heartbeat_details")
        assert not (await server.activity_task()).HasField("heartbeat_details")

    on_virtual_server(test)


def test_reset_of_a_running_attempt_is_told_by_its_heartbeat() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=QUICK)
        first = await server.activity_task()
        await control(server, "ResetActivity", reset_heartbeat=True)
        assert (await heartbeat(server, first, payloads("1"))).activity_reset
        await fail(server, first)
        second = await server.activity_task()
        assert (second.attempt, len(second.heartbeat_details.payloads)) == (2, 0)
        await control(server, "ResetActivity")
        assert "invalid activityID" in await refusal(complete(server, second)), "the count of attempts has gone back"
        await server.pass_time(31)
        third = await server.activity_task()
        assert third.attempt == 2
        await complete(server, third)

    on_virtual_server(test)


def test_changed_options_are_in_force_at_once() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=SLOW, priority=Priority(priority_key=2))
        await fail(server, await server.activity_task())
        change = ActivityOptions(
            retry_policy=RetryPolicy(initial_interval=seconds(5)), start_to_close_timeout=seconds(7), task_queue=TaskQueue(name="moved"),
            priority=Priority(fairness_key="f"),
        )  # fmt: skip
        paths = ["retry_policy.initial_interval", "startToCloseTimeout", "TaskQueue.Name", "priority.fairness_key", "nonsense"]
        answer = await control(server, "UpdateActivityOptions", activity_options=change, update_mask=FieldMask(paths=paths))
        assert (answer.activity_options.task_queue.name, answer.activity_options.retry_policy.initial_interval) == ("moved", seconds(5))
        assert (answer.activity_options.priority.priority_key, answer.activity_options.priority.fairness_key) == (2, "f")
        await server.restart()
        assert not (await server.activity_task(10)).task_token, "it has moved"
        poll = service.PollActivityTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="moved"))
        task = await server.call("PollActivityTaskQueue", poll, 10)
        assert (task.attempt, task.start_to_close_timeout) == (2, seconds(7))
        answer = await control(server, "UpdateActivityOptions", restore_original=True)
        assert (answer.activity_options.task_queue.name, answer.activity_options.start_to_close_timeout) == ("queue", seconds(30))
        await complete(server, task)

    on_virtual_server(test)


@pytest.mark.parametrize(("limit", "attempts"), [(30, 3), (300, 30), (10, 1)])
def test_retries_go_on_for_as_long_as_the_changed_timeout_says(limit: int, attempts: int) -> None:
    """One every ten seconds; the activity was scheduled with half a minute."""

    async def test(server: VirtualServer) -> None:
        every_ten_seconds = RetryPolicy(initial_interval=seconds(10), backoff_coefficient=1)
        await begin(server, retry_policy=every_ten_seconds, schedule_to_close_timeout=seconds(35))
        change = ActivityOptions(schedule_to_close_timeout=seconds(limit + 5))
        mask = FieldMask(paths=["schedule_to_close_timeout"])
        await control(server, "UpdateActivityOptions", activity_options=change, update_mask=mask)
        taken = 0
        while (task := await server.activity_task(20)).task_token:
            taken += 1
            await fail(server, task)
        assert taken == attempts + 1
        types = [event.event_type for event in await server.history()]
        assert types[-2] == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED, "it ended at once, with its last failure"

    on_virtual_server(test)


@pytest.mark.parametrize("method", ["UnpauseActivity", "ResetActivity"])
def test_an_operator_lets_one_activity_of_a_run_on_hold_go_on(method: str) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule("a", retry_policy=QUICK), schedule("b"))
        hold = service.PauseWorkflowExecutionRequest(namespace="default", workflow_id=WORKFLOW_ID)
        for activity_id in ("a", "b"):
            await control(server, "PauseActivity", activity_id)
        await server.call("PauseWorkflowExecution", hold)
        await control(server, method)
        task = await server.activity_task(2)
        assert task.activity_id == "a"
        await fail(server, task)
        await server.restart()
        task = await server.activity_task()
        assert (task.activity_id, task.attempt) == ("a", 2), "its retries go on, too"
        assert not (await server.activity_task(20)).task_token, "nobody lets the other one go on"
        await server.call("UnpauseWorkflowExecution", service.UnpauseWorkflowExecutionRequest(namespace="default", workflow_id=WORKFLOW_ID))
        await server.call("PauseWorkflowExecution", hold)
        await fail(server, task)
        assert not (await server.activity_task(20)).task_token, "who puts the run on hold again means all of them"

    on_virtual_server(test)


@pytest.mark.parametrize("ends", ["activity", "run"])
def test_a_run_is_found_by_a_paused_activity_only_while_that_waits(ends: str) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        task = await server.activity_task()
        await control(server, "PauseActivity", request_id="p")
        assert "property:activityType=Activity" in (await server.state()).search_attributes_json
        if ends == "activity":
            await complete(server, task)
        else:
            request = service.TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION)
            await server.call("TerminateWorkflowExecution", request)
        await server.restart()
        assert "property:activityType=Activity" not in (await server.state()).search_attributes_json

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"update_mask": FieldMask(paths=["priority"])}, "ActivityOptions are not provided"),
        ({"activity_options": ActivityOptions()}, "UpdateMask is not provided"),
        (
            {"activity_options": ActivityOptions(), "update_mask": FieldMask(paths=["priority"]), "restore_original": True},
            "Both UpdateMask and RestoreOriginal are provided",
        ),
        (
            {
                "activity_options": ActivityOptions(heartbeat_timeout=seconds(-1)),
                "update_mask": FieldMask(paths=["heartbeat_timeout"]),
            },
            "invalid HeartbeatTimeout: negative duration",
        ),
        (
            {"activity_options": ActivityOptions(), "update_mask": FieldMask(paths=["start_to_close_timeout"])},
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. ActivityId=a ActivityType=Activity",
        ),
        ({"activity_options": ActivityOptions(), "update_mask": FieldMask(paths=["task_queue.name"])}, "TaskQueue is not provided"),
        (
            {
                "activity_options": ActivityOptions(task_queue=TaskQueue(name="temporal-sys-per-ns-tq")),
                "update_mask": FieldMask(paths=["task_queue.name"]),
            },
            "cannot use internal per-namespace task queue:temporal-sys-per-ns-tq (in parent component task queue: queue)",
        ),
        ({"activity_options": ActivityOptions(priority=Priority(priority_key=-1))}, "priority key can't be negative"),
        (
            {
                "activity_options": ActivityOptions(retry_policy=RetryPolicy(backoff_coefficient=float("nan"))),
                "update_mask": FieldMask(paths=["retry_policy"]),
            },
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        before = await shown(server)
        assert await refusal(control(server, "UpdateActivityOptions", **change)) == message
        assert await shown(server) == before

    on_virtual_server(test)


def test_activities_are_found_by_type_or_all_of_them() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule("a1"), schedule("a2"))
        request: Any = service.PauseActivityRequest(namespace="default", execution=EXECUTION, type="Activity")
        await server.call("PauseActivity", request)
        assert all(activity.pause is not None for activity in (await server.state()).activities.values())
        await server.call("UnpauseActivity", service.UnpauseActivityRequest(namespace="default", execution=EXECUTION, unpause_all=True))
        assert {(await server.activity_task()).activity_id, (await server.activity_task()).activity_id} == {"a1", "a2"}
        request = service.ResetActivityRequest(namespace="default", execution=EXECUTION, type="Other")
        assert await refusal(server.call("ResetActivity", request)) == NOT_FOUND

    on_virtual_server(test)


def test_the_newer_calls_address_a_workflows_activity_too() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        named: dict[str, Any] = {"namespace": "default", "workflow_id": WORKFLOW_ID, "activity_id": "a"}
        await server.call("PauseActivityExecution", service.PauseActivityExecutionRequest(**named, reason="r", request_id="p"))
        assert await state_of(server) == "PAUSED"
        await server.call("ResetActivityExecution", service.ResetActivityExecutionRequest(**named, keep_paused=True))
        assert await state_of(server) == "PAUSED"
        await server.call("UnpauseActivityExecution", service.UnpauseActivityExecutionRequest(**named))
        assert await state_of(server) == "SCHEDULED"
        named["activity_id"] = ""
        request = service.PauseActivityExecutionRequest(**named)
        assert await refusal(server.call("PauseActivityExecution", request)) == "activity ID is required"

    on_virtual_server(test)


def test_a_pause_without_a_request_id_is_a_request_of_its_own() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        request = service.PauseActivityExecutionRequest(namespace="default", workflow_id=WORKFLOW_ID, activity_id="a")
        await server.call("PauseActivityExecution", request)
        assert await refusal(server.call("PauseActivityExecution", request)) == "activity is already paused"

    on_virtual_server(test)


def change_request(*paths: str, **options: Any) -> dict[str, Any]:
    return {"activity_options": ActivityOptions(**options), "update_mask": FieldMask(paths=paths)}


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("PauseActivityExecution", {"request_id": "r" * 1001}, "request ID exceeds length limit. Length=1001 Limit=1000"),
        ("UnpauseActivityExecution", {"activity_id": "a" * 1001}, "activity ID exceeds length limit. Length=1001 Limit=1000"),
        ("ResetActivityExecution", {"identity": "i" * 1001}, "identity exceeds length limit. Length=1001 Limit=1000"),
        ("UpdateActivityExecutionOptions", {"run_id": "x"}, "invalid run id: must be a valid UUID"),
        ("PauseActivityExecution", {"reason": "r" * (2 * 1024 * 1024 + 1)}, "reason exceeds length limit"),
        ("UnpauseActivityExecution", {"jitter": seconds(-1)}, "invalid jitter: negative duration"),
        ("ResetActivityExecution", {"jitter": seconds(-1)}, "invalid jitter: negative duration"),
        ("UpdateActivityExecutionOptions", {}, "ActivityOptions are not provided"),
        ("UpdateActivityExecutionOptions", {"activity_options": ActivityOptions()}, "UpdateMask is not provided"),
        ("UpdateActivityExecutionOptions", change_request(), "UpdateMask must specify at least one path"),
        ("UpdateActivityExecutionOptions", change_request("priority", "taskQueue.kind"), 'unsupported update_mask path: "taskQueue.kind"'),
        ("UpdateActivityExecutionOptions", change_request("taskQueue.name"), "taskQueue is not set"),
        (
            "UpdateActivityExecutionOptions",
            change_request("scheduleToStartTimeout", schedule_to_start_timeout=seconds(-1)),
            "invalid ScheduleToStartTimeout: negative duration",
        ),
        (
            "UpdateActivityExecutionOptions",
            change_request("priority.fairness_weight", priority=Priority(fairness_weight=-1)),
            "must be greater than zero",
        ),
        (
            "UpdateActivityExecutionOptions",
            change_request("retry_policy", retry_policy=RetryPolicy(backoff_coefficient=0.5)),
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
        (
            "UpdateActivityExecutionOptions",
            change_request(
                "retry_policy.initial_interval", "retry_policy.maximum_attempts",
                retry_policy=RetryPolicy(initial_interval=seconds(-1), maximum_attempts=1),
            ),
            "invalid InitialInterval set on retry policy: negative duration",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("workflow_id", [WORKFLOW_ID, "", "other"])
def test_the_newer_calls_are_checked_before_anything_is_looked_for(
    method: str, fields: dict[str, Any], message: str, workflow_id: str
) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        before = await shown(server)
        request = getattr(service, f"{method}Request")(**{"namespace": "default", "workflow_id": workflow_id, "activity_id": "a", **fields})
        assert await refusal(server.call(method, request)) == message
        assert await shown(server) == before

    on_virtual_server(test)


@pytest.mark.parametrize("years", [10_000, -10_000])
def test_a_failure_may_ask_for_any_delay_that_a_duration_holds(years: int) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        delay = Duration(seconds=years * 31_557_600)
        await fail(server, await server.activity_task(), failure(next_retry_delay=delay))
        assert (await shown(server)).attempt == 2
        await server.restart()
        assert bool((await server.activity_task(20)).task_token) == (years < 0)

    on_virtual_server(test)


def test_an_only_attempt_goes_on_whatever_its_policy_says_of_the_next() -> None:
    """A policy with one attempt is accepted unseen; paused, its activity has another attempt."""

    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=RetryPolicy(maximum_attempts=1, backoff_coefficient=float("nan")))
        task = await server.activity_task()
        await control(server, "PauseActivity")
        await fail(server, task)
        await control(server, "UpdateActivityOptions", **change_request("heartbeat_timeout", heartbeat_timeout=seconds(5)))
        await control(server, "UnpauseActivity")
        await complete(server, await server.activity_task())

    on_virtual_server(test)


def test_a_retry_policy_that_replaces_another_one_gets_its_defaults() -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server, retry_policy=SLOW)
        change = change_request("retry_policy", retry_policy=RetryPolicy(maximum_attempts=7))
        request = service.UpdateActivityExecutionOptionsRequest(namespace="default", workflow_id=WORKFLOW_ID, activity_id="a", **change)
        answer = await server.call("UpdateActivityExecutionOptions", request)
        policy = RetryPolicy(initial_interval=seconds(1), backoff_coefficient=2, maximum_interval=seconds(100), maximum_attempts=7)
        assert answer.activity_options.retry_policy == (await shown(server)).activity_options.retry_policy == policy

    on_virtual_server(test)


@pytest.mark.parametrize("method", ["PauseActivity", "UnpauseActivity", "ResetActivity", "UpdateActivityOptions"])
def test_what_is_not_there_cannot_be_controlled(method: str) -> None:
    async def test(server: VirtualServer) -> None:
        await begin(server)
        more: dict[str, Any] = {}
        if method == "UpdateActivityOptions":
            more = {"activity_options": ActivityOptions(priority=Priority(priority_key=1)), "update_mask": FieldMask(paths=["priority"])}
        assert await refusal(control(server, method, "other", **more)) == NOT_FOUND
        request_type = getattr(service, f"{method}Request")
        nameless = request_type(namespace="default", execution=WorkflowExecution(), id="a", **more)
        assert await refusal(server.call(method, nameless)) == "WorkflowId is not set on request."
        which = request_type(namespace="default", execution=EXECUTION, **more)
        assert await refusal(server.call(method, which)) == "Either Activity.Id or Activity.Type should be set on request."
        bad_run = request_type(namespace="default", execution=WorkflowExecution(workflow_id=WORKFLOW_ID, run_id="x"), id="a", **more)
        assert await refusal(server.call(method, bad_run)) == "RunId is not valid UUID."

    on_virtual_server(test)
