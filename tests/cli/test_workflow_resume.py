"""E7: ``perdure workflow resume`` runs the failed step again and keeps what was done before it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.cli.main import main
from tests.support.inspected import inspected_server
from tests.support.waiting import until

QUEUE = "resume"
SECONDS = timedelta(seconds=1)
ONCE = RetryPolicy(maximum_attempts=1)

done: Counter[str] = Counter()
failing: set[str] = set()
others_are_done = asyncio.Event()


@activity.defn
async def step(name: str) -> str:
    done[name] += 1
    if name == "slow":
        await asyncio.wait_for(others_are_done.wait(), 10)
    if name in failing:
        raise ApplicationError(f"{name} is down", non_retryable=True)
    return name


async def run_step(name: str) -> str:
    return await workflow.execute_activity(step, name, start_to_close_timeout=20 * SECONDS, retry_policy=ONCE)


@workflow.defn
class Sequence:
    @workflow.run
    async def run(self) -> list[str]:
        return [await run_step(name) for name in ("first", "second", "third")]


@workflow.defn
class Parallel:
    """One of two steps that were begun together is done, and the workflow has gone on, before the other one fails."""

    @workflow.run
    async def run(self) -> list[str]:
        slow = asyncio.create_task(run_step("slow"))
        return [await run_step("left"), await run_step("right"), await slow]


@workflow.defn
class Child:
    @workflow.run
    async def run(self) -> str:
        return await run_step("in the child")


@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> str:
        await run_step("first")
        return await workflow.execute_child_workflow(Child.run, id="the-child")


@workflow.defn
class OwnFault:
    @workflow.run
    async def run(self) -> str:
        await run_step("first")
        if "code" in failing:
            raise ApplicationError("the code is wrong")
        return "right"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    done.clear()
    failing.clear()
    others_are_done.clear()
    async with inspected_server() as running:
        yield running


@pytest.fixture
async def client(server: Server) -> Client:
    return await Client.connect(server.grpc_address)


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    workflows = [Sequence, Parallel, Parent, Child, OwnFault]
    async with Worker(
        client, task_queue=QUEUE, workflows=workflows, activities=[step], workflow_runner=UnsandboxedWorkflowRunner()
    ) as running:
        yield running


async def resume(server: Server, *flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output. The command calls the server from a thread, as from another process."""
    arguments = ["workflow", "resume", "--address", server.grpc_address, "--workflow-id", "w", *flags]
    code = await asyncio.to_thread(main, arguments)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


async def fails(client: Client, kind: Any) -> None:
    handle = await client.start_workflow(kind.run, id="w", task_queue=QUEUE)
    with pytest.raises(WorkflowFailureError):
        await handle.result()


@pytest.mark.usefixtures("worker")
async def test_failed_activity_runs_again(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    failing.add("second")
    await fails(client, Sequence)
    code, output = await resume(server, "--dry-run", capsys=capsys)
    assert code == 0
    assert "activity step" in output
    assert "runs again" in output
    assert "steps that stay done: 1" in output
    assert output.rstrip().endswith("dry run: nothing was changed")
    failing.clear()
    code, output = await resume(server, capsys=capsys)
    assert code == 0
    latest = client.get_workflow_handle_for(Sequence.run, "w")
    assert f"the new run is {(await latest.describe()).run_id}" in output
    assert await latest.result() == ["first", "second", "third"]
    assert done == {"first": 1, "second": 2, "third": 1}


@pytest.mark.usefixtures("worker")
async def test_what_was_done_beside_the_failed_activity_stays_done(
    server: Server, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were scheduled by the same workflow task: a reset to it would run both again."""
    failing.add("slow")
    handle = await client.start_workflow(Parallel.run, id="w", task_queue=QUEUE)

    async def both_are_done() -> bool:
        events = [event async for event in handle.fetch_history_events()]
        return sum(event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED for event in events) == 2

    await until(both_are_done)
    others_are_done.set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    failing.clear()
    assert (await resume(server, capsys=capsys))[0] == 0
    assert await client.get_workflow_handle_for(Parallel.run, "w").result() == ["left", "right", "slow"]
    assert done == {"left": 1, "right": 1, "slow": 2}


@pytest.mark.usefixtures("worker")
async def test_failed_child_is_started_again(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    failing.add("in the child")
    await fails(client, Parent)
    failing.clear()
    code, output = await resume(server, "-o", "json", capsys=capsys)
    assert code == 0
    assert json.loads(output)["again"][0] | {"event_id": 0} == {
        "kind": "child workflow", "name": "Child", "id": "the-child", "event_id": 0, "outcome": "failed", "then": "runs again"
    }  # fmt: skip
    assert await client.get_workflow_handle_for(Parent.run, "w").result() == "in the child"
    assert done == {"first": 1, "in the child": 2}


@pytest.mark.usefixtures("worker")
async def test_failure_of_the_code_itself(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    failing.add("code")
    await fails(client, OwnFault)
    failing.clear()
    code, output = await resume(server, capsys=capsys)
    assert code == 0
    assert "just before the workflow task failed" in output
    assert await client.get_workflow_handle_for(OwnFault.run, "w").result() == "right"
    assert done == {"first": 1}


@pytest.mark.usefixtures("worker")
async def test_chosen_activity_runs_again(server: Server, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    await client.execute_workflow(Sequence.run, id="w", task_queue=QUEUE)
    code, output = await resume(server, capsys=capsys)
    assert (code, output) == (
        1, "perdure: workflow w: the run did not fail; to go back to a certain task, use a reset with an event id\n"
    )  # fmt: skip
    assert (await resume(server, "--activity-id", "2", capsys=capsys))[0] == 0
    await client.get_workflow_handle_for(Sequence.run, "w").result()
    assert done == {"first": 1, "second": 2, "third": 2}


async def test_errors_say_what_is_wrong(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert await resume(server, capsys=capsys) == (1, "perdure: workflow not found for ID: w\n")
    code, output = await resume(server, "--run-id", "x", capsys=capsys)
    assert (code, output) == (1, "perdure: Invalid RunId.\n")
