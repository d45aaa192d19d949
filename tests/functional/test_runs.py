"""E5, E6: children, external signals and cancels, continue as new, retries, cron, timeouts; through the official SDK, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType, RetryState
from temporalio.client import Client, WorkflowContinuedAsNewError, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.waiting import until

E = EventType
SECOND = timedelta(seconds=1)


@workflow.defn
class Waiting:
    """Waits for a signal, and returns what it says."""

    def __init__(self) -> None:
        self.said: str | None = None

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.said is not None)
        return self.said or ""

    @workflow.signal
    def say(self, what: str) -> None:
        self.said = what


@workflow.defn
class Failing:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("broken", type="Broken", non_retryable=True)


@workflow.defn
class Parent:
    """Does with its child what it is told."""

    @workflow.run
    async def run(self, what: str) -> str:
        workflow_id = f"{workflow.info().workflow_id}-child"
        if what == "fails":
            await workflow.execute_child_workflow(Failing.run, id=workflow_id)
        if what == "exists":
            await workflow.start_child_workflow(Waiting.run, id=f"{workflow_id}-there")
        if what == "times out":
            await workflow.execute_child_workflow(Waiting.run, id=workflow_id, run_timeout=timedelta(milliseconds=100))
        policies = {
            "closes": workflow.ParentClosePolicy.TERMINATE,
            "asks": workflow.ParentClosePolicy.REQUEST_CANCEL,
            "leaves": workflow.ParentClosePolicy.ABANDON,
        }
        policy = policies.get(what, workflow.ParentClosePolicy.TERMINATE)
        child = await workflow.start_child_workflow(Waiting.run, id=workflow_id, parent_close_policy=policy)
        if what == "signals":
            await child.signal(Waiting.say, "hello")
        if what == "cancels":
            child.cancel()
        return "" if what in policies else await child


@workflow.defn
class Caller:
    """Signals or cancels another workflow."""

    @workflow.run
    async def run(self, what: str, workflow_id: str) -> None:
        other = workflow.get_external_workflow_handle_for(Waiting.run, workflow_id)
        if what == "signals":
            await other.signal(Waiting.say, "from outside")
        else:
            await other.cancel()


@workflow.defn
class Counting:
    """Goes on as new until it has counted to three."""

    @workflow.run
    async def run(self, count: int) -> str:
        if count < 3:
            workflow.continue_as_new(count + 1, memo={"count": count + 1})
        return f"{count} {workflow.memo_value('count')}"


@workflow.defn
class ThirdTime:
    @workflow.run
    async def run(self) -> int:
        if workflow.info().attempt < 3:
            raise ApplicationError("not yet")
        return workflow.info().attempt


@workflow.defn
class Periodic:
    """Adds one to what it returned the last time."""

    @workflow.run
    async def run(self) -> int:
        return (workflow.get_last_completion_result(int) or 0) + 1


WORKFLOWS = [Waiting, Failing, Parent, Caller, Counting, ThirdTime, Periodic]


@pytest.fixture
async def queue(client: Client) -> AsyncIterator[str]:
    """A queue with a worker."""
    async with Worker(client, task_queue="runs", workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner()):
        yield "runs"


async def ended(handle: WorkflowHandle[object, object]) -> bool:
    return (await handle.describe()).status != WorkflowExecutionStatus.RUNNING


async def test_a_child_is_signaled_and_returns(client: Client, queue: str) -> None:
    workflow_id = uuid4().hex
    assert await client.execute_workflow(Parent.run, "signals", id=workflow_id, task_queue=queue) == "hello"
    child = await client.get_workflow_handle(f"{workflow_id}-child").describe()
    assert child.parent_id == workflow_id
    assert child.root_id == workflow_id


@pytest.mark.parametrize(("what", "cause"), [("fails", ApplicationError), ("cancels", CancelledError), ("times out", TimeoutError)])
async def test_a_childs_failure_reaches_the_parent(client: Client, queue: str, what: str, cause: type[Exception]) -> None:
    with pytest.raises(WorkflowFailureError) as failure:
        await client.execute_workflow(Parent.run, what, id=uuid4().hex, task_queue=queue)
    error = failure.value.cause
    assert isinstance(error, ChildWorkflowError | CancelledError)
    assert isinstance(error.cause if isinstance(error, ChildWorkflowError) else error, cause)


async def test_a_terminated_child_fails_its_parent(client: Client, queue: str) -> None:
    workflow_id = uuid4().hex
    parent = await client.start_workflow(Parent.run, "waits", id=workflow_id, task_queue=queue)
    child = client.get_workflow_handle(f"{workflow_id}-child")
    await until(lambda: _exists(client, child.id))
    await child.terminate("enough")
    with pytest.raises(WorkflowFailureError) as failure:
        await parent.result()
    assert isinstance(failure.value.cause, ChildWorkflowError)
    assert isinstance(failure.value.cause.cause, TerminatedError)


async def _exists(client: Client, workflow_id: str) -> bool:
    return bool([w async for w in client.list_workflows(f"WorkflowId = '{workflow_id}'")])


async def test_a_childs_id_may_be_taken(client: Client, queue: str) -> None:
    workflow_id = uuid4().hex
    await client.start_workflow(Waiting.run, id=f"{workflow_id}-child-there", task_queue=queue)
    parent = await client.start_workflow(Parent.run, "exists", id=workflow_id, task_queue=queue)
    failed = E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED

    async def was_refused() -> bool:
        return any(event.event_type == failed for event in (await parent.fetch_history()).events)

    await until(was_refused)


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("closes", WorkflowExecutionStatus.TERMINATED),
        ("asks", WorkflowExecutionStatus.CANCELED),
        ("leaves", WorkflowExecutionStatus.RUNNING),
    ],
)
async def test_what_becomes_of_the_child_when_the_parent_closes(
    client: Client, queue: str, what: str, status: WorkflowExecutionStatus
) -> None:
    workflow_id = uuid4().hex
    await client.execute_workflow(Parent.run, what, id=workflow_id, task_queue=queue)
    child = client.get_workflow_handle(f"{workflow_id}-child")
    if status != WorkflowExecutionStatus.RUNNING:
        await until(lambda: ended(child))
    assert (await child.describe()).status == status


async def test_a_workflow_signals_and_cancels_others(client: Client, queue: str) -> None:
    signaled = await client.start_workflow(Waiting.run, id=uuid4().hex, task_queue=queue)
    await client.execute_workflow(Caller.run, args=["signals", signaled.id], id=uuid4().hex, task_queue=queue)
    assert await signaled.result() == "from outside"
    canceled = await client.start_workflow(Waiting.run, id=uuid4().hex, task_queue=queue)
    await client.execute_workflow(Caller.run, args=["cancels", canceled.id], id=uuid4().hex, task_queue=queue)
    with pytest.raises(WorkflowFailureError) as failure:
        await canceled.result()
    assert isinstance(failure.value.cause, CancelledError)
    with pytest.raises(WorkflowFailureError) as failure:
        await client.execute_workflow(Caller.run, args=["signals", "nobody"], id=uuid4().hex, task_queue=queue)
    assert isinstance(failure.value.cause, ApplicationError)


async def test_continue_as_new_leads_to_the_last_run(client: Client, queue: str) -> None:
    handle = await client.start_workflow(Counting.run, 0, id=uuid4().hex, task_queue=queue)
    assert await handle.result() == "3 3"
    first = await client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).describe()
    assert first.status == WorkflowExecutionStatus.CONTINUED_AS_NEW


async def test_a_workflow_is_retried(client: Client, queue: str) -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)
    handle = await client.start_workflow(ThirdTime.run, id=uuid4().hex, task_queue=queue, retry_policy=policy)
    assert await handle.result() == 3


async def test_a_cron_schedule_hands_on_its_result(client: Client, queue: str) -> None:
    handle = await client.start_workflow(Periodic.run, id=uuid4().hex, task_queue=queue, cron_schedule="@every 1s")
    run_id = handle.first_execution_run_id
    for expected in (1, 2):
        run = client.get_workflow_handle(handle.id, run_id=run_id)
        await until(lambda run=run: ended(run))
        *_, close = (await run.fetch_history()).events
        attributes = close.workflow_execution_completed_event_attributes
        assert await client.data_converter.decode(attributes.result.payloads, [int]) == [expected]
        with pytest.raises(WorkflowContinuedAsNewError) as continued:
            await run.result(follow_runs=False)
        assert continued.value.new_execution_run_id == attributes.new_execution_run_id
        run_id = attributes.new_execution_run_id
    await handle.terminate()


async def test_an_execution_timeout_ends_the_chain(client: Client, queue: str) -> None:
    """Each run times out before and is retried, for as long as the execution has time."""
    workflow_id = uuid4().hex
    handle = await client.start_workflow(
        Waiting.run, id=workflow_id, task_queue=queue, execution_timeout=timedelta(seconds=1.7), run_timeout=timedelta(milliseconds=300),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
    )  # fmt: skip
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, TimeoutError)
    ends: list[tuple[int, str, bool]] = []
    run_id = handle.first_execution_run_id
    while run_id:
        events = [event async for event in client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events()]
        end = events[-1].workflow_execution_timed_out_event_attributes
        run_id = end.new_execution_run_id
        ends.append((events[0].workflow_execution_started_event_attributes.attempt, RetryState.Name(end.retry_state), bool(run_id)))
    attempts = len(ends)
    assert attempts > 1
    assert ends[:-1] == [(attempt, "RETRY_STATE_IN_PROGRESS", True) for attempt in range(1, attempts)]
    assert ends[-1] == (attempts, "RETRY_STATE_TIMEOUT", False)


async def test_an_id_is_used_once_under_reject_duplicate(client: Client, queue: str) -> None:
    workflow_id = uuid4().hex
    await client.execute_workflow(Counting.run, 3, id=workflow_id, task_queue=queue, memo={"count": 3})
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start_workflow(
            Counting.run, 3, id=workflow_id, task_queue=queue, id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE
        )


async def test_many_children_at_once(client: Client, queue: str) -> None:
    ids = [uuid4().hex for _ in range(10)]
    calls = [client.execute_workflow(Parent.run, "signals", id=workflow_id, task_queue=queue) for workflow_id in ids]
    assert await asyncio.gather(*calls) == ["hello"] * len(ids)
