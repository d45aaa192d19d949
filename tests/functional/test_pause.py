"""E4 through the official SDK: a paused run takes in what happens and hands out nothing; poisoned runs are paused or fail by policy."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.namespace.v1 import UpdateNamespaceInfo
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    ListWorkflowExecutionsRequest,
    PauseWorkflowExecutionRequest,
    PollWorkflowTaskQueueRequest,
    QueryWorkflowRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskFailedRequest,
    UnpauseWorkflowExecutionRequest,
    UpdateNamespaceRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.core.poison_policy import NAMESPACE_KEY
from perdure.settings import ServerSettings
from tests.support import task_calls as tasks
from tests.support.virtual_server import VirtualServer, on_virtual_server
from tests.support.waiting import until

QUEUE = "pause"
SECOND = timedelta(seconds=1)
PAUSED = 8
broken = True


@activity.defn
async def work() -> str:
    return "done"


@workflow.defn
class Working:
    def __init__(self) -> None:
        self.released = False

    @workflow.signal
    def release(self) -> None:
        self.released = True

    @workflow.query
    def is_released(self) -> bool:
        return self.released

    @workflow.update
    async def poke(self) -> None:
        pass

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.released)
        return await workflow.execute_activity(work, start_to_close_timeout=10 * SECOND)


@workflow.defn
class Broken:
    @workflow.run
    async def run(self) -> str:
        if broken:
            raise RuntimeError("a bug")  # fails the workflow task, not the workflow
        return "mended"


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Working, Broken], activities=[work], workflow_runner=UnsandboxedWorkflowRunner())


async def pause(client: Client, workflow_id: str) -> None:
    await client.workflow_service.pause_workflow_execution(
        PauseWorkflowExecutionRequest(namespace="default", workflow_id=workflow_id, identity="me", reason="hold", request_id="p")
    )


async def unpause(client: Client, workflow_id: str) -> None:
    await client.workflow_service.unpause_workflow_execution(
        UnpauseWorkflowExecutionRequest(namespace="default", workflow_id=workflow_id, identity="me", reason="on", request_id="u")
    )


async def describe(client: Client, workflow_id: str) -> DescribeWorkflowExecutionResponse:
    request = DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id=workflow_id))
    return await client.workflow_service.describe_workflow_execution(request)


async def attribute(client: Client, workflow_id: str, name: str) -> list[str]:
    fields = (await describe(client, workflow_id)).workflow_execution_info.search_attributes.indexed_fields
    return json.loads(fields[name].data) if name in fields else []


async def test_paused_run_goes_on_where_it_was(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Working.run, id="w", task_queue=QUEUE)
        assert not await handle.query(Working.is_released)
        await pause(client, "w")
        await handle.signal(Working.release)
        assert (await describe(client, "w")).workflow_extended_info.pause_info.reason == "hold"
        assert await attribute(client, "w", "TemporalPauseInfo") == ["Workflow:w", "Reason:hold"]
        listed = await client.workflow_service.list_workflow_executions(
            ListWorkflowExecutionsRequest(namespace="default", query="ExecutionStatus = 'Paused'")
        )
        assert [run.execution.workflow_id for run in listed.executions] == ["w"]
        query = QueryWorkflowRequest(
            namespace="default", execution=WorkflowExecution(workflow_id="w"), query=WorkflowQuery(query_type="is_released")
        )
        assert (await client.workflow_service.query_workflow(query)).query_rejected.status == PAUSED
        with pytest.raises(RPCError) as refused:
            await handle.execute_update("poke")  # pyright: ignore[reportUnknownMemberType]  an overload of the SDK is not fully typed
        assert refused.value.status == RPCStatusCode.FAILED_PRECONDITION
        await unpause(client, "w")
        assert await handle.result() == "done"
        assert await attribute(client, "w", "TemporalPauseInfo") == []


async def test_activities_wait_for_the_run(client: Client) -> None:
    """Scheduled before the pause, and not taken by any worker yet: it is handed out only when the run goes on."""
    workflows_only = Worker(client, task_queue=QUEUE, workflows=[Working], workflow_runner=UnsandboxedWorkflowRunner())
    async with workflows_only:
        handle = await client.start_workflow(Working.run, id="w", task_queue=QUEUE, start_signal="release")

        async def pending() -> bool:
            return bool((await describe(client, "w")).pending_activities)

        await until(pending)
    await pause(client, "w")
    async with Worker(client, task_queue=QUEUE, activities=[work]):
        info = (await describe(client, "w")).pending_activities[0]
        assert info.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    async with worker(client):
        await unpause(client, "w")
        assert await handle.result() == "done"


# -- the poison policy -------------------------------------------------------------------------------------------
async def set_policy(client: Client, policy: str) -> None:
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(namespace="default", update_info=UpdateNamespaceInfo(data={NAMESPACE_KEY: policy}))
    )


async def fail_task(client: Client, message: str) -> None:
    task = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=QUEUE), identity="raw")
    )
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
    await client.workflow_service.respond_workflow_task_failed(
        RespondWorkflowTaskFailedRequest(task_token=task.task_token, cause=cause, failure=Failure(message=message), namespace="default")
    )


@pytest.mark.parametrize(
    "policy",
    [
        "nonsense",
        '{"action": "explode"}',
        '{"action": "pause", "after": 0}',
        '{"actoin": "pause"}',
        '{"workflow_types": {"T": {"after": "3"}}}',
    ],
)
async def test_bad_policy_is_refused(client: Client, policy: str) -> None:
    with pytest.raises(RPCError, match=r"perdure\.poison-policy: not a poison policy: .*it looks like") as refused:
        await set_policy(client, policy)
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT


async def test_failures_that_are_not_alike_do_not_count(client: Client) -> None:
    await set_policy(client, '{"action": "pause", "after": 3}')
    handle = await client.start_workflow(Broken.run, id="w", task_queue=QUEUE)
    for message in ("one", "one", "two", "two"):
        await fail_task(client, message)
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    await fail_task(client, "two")
    described = await describe(client, "w")
    assert described.workflow_execution_info.status == PAUSED
    assert "NonDeterministicError: two" in described.workflow_extended_info.pause_info.reason
    assert await attribute(client, "w", "TemporalReportedProblems") == [
        "category=WorkflowTaskFailed", "cause=WorkflowTaskFailedCauseNonDeterministicError"
    ]  # fmt: skip


async def test_poisoned_run_fails_with_the_cause(client: Client) -> None:
    await set_policy(client, '{"workflow_types": {"Broken": {"action": "fail", "after": 2}}}')
    handle = await client.start_workflow(Broken.run, id="w", task_queue=QUEUE)
    await fail_task(client, "a bug")
    await fail_task(client, "a bug")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "PoisonedWorkflowTask"
    assert "failed 2 times in a row: NonDeterministicError: a bug" in str(cause)
    assert cause.cause is not None
    assert "a bug" in str(cause.cause)


async def test_run_poisoned_by_its_code_is_paused_and_mended(client: Client) -> None:
    """A real worker reports a failure once and stays silent then: the timeouts count as the same failure."""
    global broken
    broken = True
    await set_policy(client, '{"action": "pause", "after": 2}')
    async with worker(client):
        handle = await client.start_workflow(Broken.run, id="w", task_queue=QUEUE, task_timeout=SECOND)
        await _paused(client, "w")
        broken = False
        await unpause(client, "w")
        assert await handle.result() == "mended"
        assert await attribute(client, "w", "TemporalReportedProblems") == []


async def test_the_servers_own_policy_holds_where_a_namespace_has_none(durable_database: str) -> None:
    """The count goes on behind a restart; off, a run is retried for ever."""
    policy = '{"action": "pause", "after": 3}'
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=durable_database, poison_policy=policy)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        await client.start_workflow(Broken.run, id="w", task_queue=QUEUE)
        await fail_task(client, "a bug")
        await fail_task(client, "a bug")
        assert (await describe(client, "w")).workflow_execution_info.status == WorkflowExecutionStatus.RUNNING
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        await fail_task(client, "a bug")
        assert (await describe(client, "w")).workflow_execution_info.status == PAUSED
        await set_policy(client, '{"action": "keep-retrying"}')
        await unpause(client, "w")
        for _ in range(4):
            await fail_task(client, "a bug")
        assert (await describe(client, "w")).workflow_execution_info.status == WorkflowExecutionStatus.RUNNING


async def _paused(client: Client, workflow_id: str) -> None:
    async def is_paused() -> bool:
        return (await describe(client, workflow_id)).workflow_execution_info.status == PAUSED

    await until(is_paused)


async def test_good_task_removes_reported_problems(server: Server, client: Client) -> None:
    handle = await client.start_workflow(Broken.run, id="w", task_queue=QUEUE)
    for _ in range(server.settings.limits.workflow_task_problems_to_mark):
        assert await attribute(client, "w", "TemporalReportedProblems") == []
        await fail_task(client, "x")
    assert await attribute(client, "w", "TemporalReportedProblems") != []
    task = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=QUEUE), identity="raw")
    )
    await client.workflow_service.respond_workflow_task_completed(
        RespondWorkflowTaskCompletedRequest(task_token=task.task_token, namespace="default")
    )
    assert await attribute(client, "w", "TemporalReportedProblems") == []
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING


def test_a_failure_stays_reported_while_the_attempts_that_follow_time_out() -> None:
    """SDKs report a failure once. Only what comes as an event takes its place."""

    async def reported(server: VirtualServer) -> list[str]:
        request = DescribeWorkflowExecutionRequest(namespace="default", execution=tasks.EXECUTION)
        described = await server.call("DescribeWorkflowExecution", request)
        found = described.workflow_execution_info.search_attributes.indexed_fields["TemporalReportedProblems"].data
        return json.loads(found) if found else []

    failed = ["category=WorkflowTaskFailed", "cause=WorkflowTaskFailedCauseWorkflowWorkerUnhandledFailure"]

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await tasks.fail(server, await tasks.poll(server))
        for _ in range(4):
            assert await reported(server) == []
            await tasks.poll(server, timeout=600)
            await tasks.elapse(server, 60)
        assert await reported(server) == failed
        await tasks.fail(
            server, await tasks.poll(server, timeout=600), WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
        )
        assert await reported(server) == failed
        await server.restart()
        await tasks.signal(server)
        await tasks.poll(server, timeout=600)
        await tasks.elapse(server, 60)
        assert await reported(server) == ["category=WorkflowTaskTimedOut", "cause=WorkflowTaskTimedOutCauseStartToClose"]
        await tasks.complete(server, await tasks.poll(server, timeout=600))
        assert await reported(server) == []

    on_virtual_server(test)
