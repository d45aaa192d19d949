"""E5, E10: task queues: priorities, fairness, rates, pollers, spilled backlogs, workers that say goodbye."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import nexusrpc.handler
import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Priority, RetryPolicy, WorkerVersionCapabilities, WorkflowType
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueMetadata
from temporalio.api.workflowservice import v1 as service
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError, Code
from perdure.core.limits import LONGEST_DURATION
from perdure.store.protocol import StoreError
from tests.support.activity_calls import fail, schedule
from tests.support.task_calls import EXECUTION, STICKY, complete, complete_workflow, elapse, poll, prioritize, sticky, terminate
from tests.support.virtual_server import QUEUE, VirtualServer, on_virtual_server

WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


async def start(server: VirtualServer, name: str, **priority: Any) -> None:
    request = service.StartWorkflowExecutionRequest(
        namespace="default", workflow_id=name, workflow_type=WorkflowType(name="W"), task_queue=QUEUE, request_id=name,
        priority=Priority(**priority),
    )  # fmt: skip
    await server.call("StartWorkflowExecution", request)


async def describe(server: VirtualServer, task_type: TaskQueueType.ValueType = WORKFLOW) -> service.DescribeTaskQueueResponse:
    request = service.DescribeTaskQueueRequest(namespace="default", task_queue=QUEUE, task_queue_type=task_type, report_stats=True)
    return await server.call("DescribeTaskQueue", request)


def test_urgent_workflows_go_first_and_tenants_share() -> None:
    async def test(server: VirtualServer) -> None:
        for number in range(4):
            await start(server, f"big-{number}", fairness_key="big")
        await start(server, "small-0", fairness_key="small")
        await start(server, "urgent", priority_key=1)
        await start(server, "heavy-0", fairness_key="heavy", fairness_weight=10)
        await start(server, "heavy-1", fairness_key="heavy", fairness_weight=10)
        order = [(await poll(server)).workflow_execution.workflow_id for _ in range(8)]
        assert order == ["urgent", "heavy-0", "heavy-1", "big-0", "small-0", "big-1", "big-2", "big-3"]

    on_virtual_server(test)


def test_a_task_that_waits_moves_to_its_new_priority() -> None:
    async def test(server: VirtualServer) -> None:
        for name in ("one", "two", "three"):
            await start(server, name)
        await prioritize(server, "three", 1)
        await prioritize(server, "one", 5)
        await prioritize(server, "one", 5)
        order = [(await poll(server)).workflow_execution.workflow_id for _ in range(3)]
        assert order == ["three", "two", "one"]
        assert not (await poll(server, timeout=2)).task_token
        assert (await describe(server)).stats.approximate_backlog_count == 0

    on_virtual_server(test)


def test_an_activity_has_the_priority_that_its_workflow_got_later() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.decide(schedule("plain"), schedule("own", priority=Priority(fairness_key="tenant")))
        await prioritize(server, EXECUTION.workflow_id, 2)
        tasks = [await server.activity_task() for _ in range(2)]
        assert {task.activity_id: task.priority for task in tasks} == {
            "plain": Priority(priority_key=2), "own": Priority(priority_key=2, fairness_key="tenant"),
        }  # fmt: skip

    on_virtual_server(test)


def test_statistics_by_priority() -> None:
    async def test(server: VirtualServer) -> None:
        await start(server, "a")
        await elapse(server, 10)
        await start(server, "b", priority_key=1)
        await start(server, "c", priority_key=1)
        found = await describe(server)
        assert {key: stats.approximate_backlog_count for key, stats in found.stats_by_priority_key.items()} == {1: 2, 3: 1}
        assert found.stats.approximate_backlog_count == 3
        assert found.stats.approximate_backlog_age.seconds == 10
        assert found.stats.tasks_add_rate == pytest.approx(3 / 30)
        await poll(server)
        assert (await describe(server)).stats.tasks_dispatch_rate == pytest.approx(1 / 30)

    on_virtual_server(test)


def test_a_worker_limits_the_rate_of_its_queue() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), *[schedule(str(number)) for number in range(8)])
        metadata = TaskQueueMetadata()
        metadata.max_tasks_per_second.value = 2
        request = service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE, task_queue_metadata=metadata)
        begun = server.clock.now()
        hints: list[int] = []
        for _ in range(8):
            task = await server.call("PollActivityTaskQueue", request, 30)
            assert task.task_token
            hints.append(task.poller_scaling_decision.poll_request_delta_suggestion)
        # More polls would not help.
        assert hints == [1, 1, 0, 0, 0, 0, 0, 0]
        assert 2.9 * SECOND < server.clock.now() - begun < 3.1 * SECOND
        found = await describe(server, ACTIVITY)
        assert found.effective_rate_limit.requests_per_second == 2
        assert found.stats.rate_limiting_active
        assert found.stats_by_priority_key[3].rate_limiting_active
        assert not (await describe(server)).stats.rate_limiting_active
        await elapse(server, 31)
        assert not (await describe(server, ACTIVITY)).stats.rate_limiting_active

    on_virtual_server(test)


def test_tasks_that_nobody_wants_any_more_do_not_count_for_the_rate() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), *[schedule(str(number)) for number in range(30)])
        await terminate(server)
        await server.start_workflow()
        await complete(server, await poll(server), schedule("wanted"), schedule("wanted too"))
        metadata = TaskQueueMetadata()
        metadata.max_tasks_per_second.value = 1
        request = service.PollActivityTaskQueueRequest(namespace="default", task_queue=QUEUE, task_queue_metadata=metadata)
        begun = server.clock.now()
        for activity_id in ("wanted", "wanted too"):
            assert (await server.call("PollActivityTaskQueue", request, 60)).activity_id == activity_id
        assert 0.9 * SECOND < server.clock.now() - begun < 1.1 * SECOND

    on_virtual_server(test)


def test_statistics_are_those_of_a_whole_queue() -> None:
    async def test(server: VirtualServer) -> None:
        request = service.DescribeTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=f"/_sys/{QUEUE.name}/1"))
        assert not (await server.call("DescribeTaskQueue", request)).HasField("stats")
        request.report_stats = True
        with pytest.raises(ApiError, match="only supported for the root partition") as refused:
            await server.call("DescribeTaskQueue", request)
        assert refused.value.code == Code.INVALID_ARGUMENT

    on_virtual_server(test)


def test_a_backlog_beyond_its_bound_is_lost_neither_in_memory_nor_by_a_restart() -> None:
    async def test(server: VirtualServer) -> None:
        def bound() -> None:
            server.core.matching.backlog_bound = 5

        bound()
        names = {f"w{number}" for number in range(40)}
        for name in sorted(names):
            await start(server, name)
        assert (await describe(server)).stats.approximate_backlog_count == 40
        seen: set[str] = set()

        async def work(count: int) -> None:
            for _ in range(count):
                task = await poll(server)
                assert task.task_token, f"nothing to do with {len(names - seen)} workflows left"
                seen.add(task.workflow_execution.workflow_id)
                await complete(server, task, complete_workflow())

        await work(15)
        await server.restart()
        bound()
        await work(25)
        assert seen == names
        assert (await describe(server)).stats.approximate_backlog_count == 0

    on_virtual_server(test)


@pytest.mark.parametrize("fails", ["find_ready", "read_journal"])
def test_a_full_queue_is_filled_again_although_the_store_fails(fails: str) -> None:
    """It asks once."""

    async def test(server: VirtualServer) -> None:
        server.core.matching.backlog_bound = 4
        names = {f"w{number}" for number in range(12)}
        for name in sorted(names):
            await start(server, name)
        await server.pass_time(1)
        (partition,) = server.core.engine.partitions
        partition.cache.limit = 1
        partition.cache.trim()
        (queue,) = (queue for queue in server.core.matching.queues.values() if queue.is_full)
        kept = {task.key.business_id for task in queue.backlog_tasks()}
        headers = await server.base.list_headers(server.core.namespaces.id_of("default") or "", "workflow")
        turned_away = {header.uid for header in headers if header.business_id not in kept}
        assert len(turned_away) == 8
        read = getattr(server.base, fails)
        failures = 0

        async def fail_twice(first: Any, *more: Any) -> Any:
            nonlocal failures
            if (first in turned_away or fails == "find_ready") and failures < 2:
                failures += 1
                raise StoreError("the store is away")
            return await read(first, *more)

        setattr(server.base, fails, fail_twice)
        seen: set[str] = set()
        for _ in names:
            task = await poll(server)
            assert task.task_token, f"{names - seen} are lost"
            seen.add(task.workflow_execution.workflow_id)
            await complete(server, task, complete_workflow())
            await server.pass_time(3)
        assert failures == 2
        assert seen == names

    on_virtual_server(test)


def test_attempts_after_a_backoff_come_back_to_a_full_queue() -> None:
    """Their run wakes up in time; that it has work to hand out its header says only when it is evicted."""

    async def test(server: VirtualServer) -> None:
        server.core.matching.backlog_bound = 1
        names = {"a", "b", "c", "d"}
        await server.start_workflow()
        backoff = RetryPolicy(initial_interval=to_duration(600 * SECOND))
        await server.decide(
            *(schedule(name, retry_policy=backoff, start_to_close_timeout=to_duration(60 * SECOND)) for name in sorted(names))
        )
        for _ in names:
            await fail(server, await server.activity_task())
        (partition,) = server.core.engine.partitions
        partition.cache.limit, limit = 0, partition.cache.limit
        partition.cache.trim()
        assert not len(partition.cache)
        partition.cache.limit = limit
        await server.pass_time(700)
        seen: set[str] = set()
        for _ in names:
            task = await server.activity_task()
            assert task.attempt == 2, f"{names - seen} are lost"
            seen.add(task.activity_id)
        assert seen == names

    on_virtual_server(test)


def test_polls_of_one_type_are_limited_per_namespace() -> None:
    async def test(server: VirtualServer) -> None:
        polls = [asyncio.ensure_future(poll(server)) for _ in range(3)]
        await elapse(server, 0.1)
        with pytest.raises(ApiError) as refused:
            await poll(server)
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
        assert refused.value.message == "namespace concurrent poller limit exceeded"
        assert not (await server.activity_task(3)).task_token
        await asyncio.gather(*polls)
        await poll(server, timeout=3)

    on_virtual_server(test, dynamic_config={"frontend.namespaceCount": 3})


def test_a_worker_that_says_goodbye_is_not_waited_for() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(60))
        waiting = [asyncio.ensure_future(poll(server, queue, worker_instance_key="k")) for queue in (QUEUE, STICKY)]
        other = asyncio.ensure_future(poll(server, worker_instance_key="other"))
        await elapse(server, 0.1)
        begun = server.clock.now()
        request = service.ShutdownWorkerRequest(
            namespace="default", worker_instance_key="k", task_queue=QUEUE.name, task_queue_types=[WORKFLOW], sticky_task_queue=STICKY.name
        )
        await server.call("ShutdownWorker", request)
        assert [task.task_token for task in await asyncio.gather(*waiting)] == [b"", b""]
        # One that was on its way is answered too, and the other worker goes on.
        assert not (await poll(server, worker_instance_key="k")).task_token
        assert server.clock.now() == begun
        assert not other.done()
        await start(server, "next")
        assert (await other).task_token

    on_virtual_server(test)


def test_a_worker_that_said_goodbye_is_not_shown_any_more() -> None:
    async def test(server: VirtualServer) -> None:
        def polling(identity: str, key: str) -> asyncio.Task[Any]:
            request = service.PollWorkflowTaskQueueRequest(
                namespace="default", task_queue=QUEUE, identity=identity, worker_instance_key=key
            )
            return asyncio.ensure_future(server.call("PollWorkflowTaskQueue", request, 60))

        polls = [polling("stays", "1"), polling("leaves", "2"), polling("", "3")]
        await elapse(server, 0.1)
        for identity, key in (("leaves", "2"), ("", "none")):
            request = service.ShutdownWorkerRequest(
                namespace="default", identity=identity, worker_instance_key=key, task_queue=QUEUE.name, sticky_task_queue="sticky"
            )
            await server.call("ShutdownWorker", request)
        assert not (await polls[1]).task_token
        assert sorted(poller.identity for poller in (await describe(server)).pollers) == ["", "stays"]

    on_virtual_server(test)


def test_hints_for_the_number_of_polls() -> None:
    async def test(server: VirtualServer) -> None:
        for name in ("a", "b", "c"):
            await start(server, name)
        await elapse(server, 1)
        assert (await poll(server)).poller_scaling_decision.poll_request_delta_suggestion == 1
        await poll(server)
        await poll(server)
        late = asyncio.ensure_future(poll(server))
        await elapse(server, 5)
        await start(server, "d")
        assert (await late).poller_scaling_decision.poll_request_delta_suggestion == -1

    on_virtual_server(test)


async def test_queues_over_the_wire(client: Client) -> None:
    """Describing, in both forms, and what is refused, by the official SDK's raw client."""
    calls = client.workflow_service
    capabilities = WorkerVersionCapabilities(build_id="b1")
    poll_request = service.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=TaskQueue(name="q"), identity="me", worker_version_capabilities=capabilities
    )
    assert not (await calls.poll_workflow_task_queue(poll_request, timeout=timedelta(seconds=2.5))).task_token
    request = service.DescribeTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="q"), report_stats=True)
    found = await calls.describe_task_queue(request)
    assert [(poller.identity, poller.worker_version_capabilities) for poller in found.pollers] == [("me", capabilities)]
    assert list(found.stats_by_priority_key) == [3]
    assert found.versioning_info.current_version == "__unversioned__"
    request.api_mode = 1  # pyright: ignore[reportAttributeAccessIssue]
    enhanced = await calls.describe_task_queue(request)
    assert set(enhanced.versions_info[""].types_info) == {1, 2}
    partitions = await calls.list_task_queue_partitions(
        service.ListTaskQueuePartitionsRequest(namespace="default", task_queue=TaskQueue(name="q"))
    )
    assert [partition.key for partition in partitions.workflow_task_queue_partitions] == ["q"]
    for bad, message in {"": "missing task queue name", "/_sys/q": "reserved prefix", "x" * 1001: "exceeds limit"}.items():
        poll_request.task_queue.name = bad
        with pytest.raises(RPCError, match=message):
            await calls.poll_workflow_task_queue(poll_request, timeout=timedelta(seconds=5))


def test_a_poll_for_nexus_tasks_waits_like_any_other() -> None:
    """Nothing makes such tasks yet; a worker that polls for them beside others must neither fail nor spin."""

    async def test(server: VirtualServer) -> None:
        began = server.clock.now()
        request = service.PollNexusTaskQueueRequest(namespace="default", task_queue=QUEUE, identity="worker")
        assert await server.call("PollNexusTaskQueue", request, 30) == service.PollNexusTaskQueueResponse()
        assert (server.clock.now() - began) // SECOND == 29
        assert await server.call("PollNexusTaskQueue", request, 300) == service.PollNexusTaskQueueResponse()
        assert (server.clock.now() - began) // SECOND == 29 + 60

    on_virtual_server(test)


@nexusrpc.handler.service_handler
class Idle:
    @nexusrpc.handler.sync_operation
    async def ask(self, ctx: nexusrpc.handler.StartOperationContext, question: str) -> str:
        return question


@workflow.defn
class Plain:
    @workflow.run
    async def run(self) -> str:
        return "done"


async def test_a_worker_with_nexus_operations_runs_its_workflows(client: Client) -> None:
    async with Worker(
        client, task_queue="q", workflows=[Plain], nexus_service_handlers=[Idle()], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        assert await client.execute_workflow(Plain.run, id="w", task_queue="q") == "done"


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(315_576_000_000, LONGEST_DURATION), (-315_576_000_000, -LONGEST_DURATION), (-(2**62), -LONGEST_DURATION)]
)
def test_a_sticky_queue_for_ten_thousand_years(seconds: int, timeout: int) -> None:
    """What protobuf calls a duration, and no database a number."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await complete(server, await poll(server), sticky_attributes=sticky(seconds))
        assert (await server.state()).sticky_timeout == timeout
        signal = service.SignalWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION, signal_name="go")
        await server.call("SignalWorkflowExecution", signal)
        assert (await poll(server)).started_event_id

    on_virtual_server(test)
