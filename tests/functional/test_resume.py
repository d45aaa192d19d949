"""E7 through the official SDK: the server itself says where a run would be resumed, and resets it there."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.namespace.v1 import UpdateNamespaceInfo
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest, UpdateNamespaceRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.core.poison_policy import NAMESPACE_KEY

QUEUE = "resume"
QUERY = "__perdure_resume_point"
done: Counter[str] = Counter()
broken: set[str] = set()


@activity.defn
async def step(name: str) -> str:
    done[name] += 1
    if name in broken:
        raise ApplicationError(f"{name} is down", non_retryable=True)
    return name


@workflow.defn
class Steps:
    @workflow.run
    async def run(self) -> list[str]:
        timeout = timedelta(seconds=20)
        return [
            await workflow.execute_activity(step, name, activity_id=name, start_to_close_timeout=timeout)
            for name in ("one", "two", "three")
        ]

    @workflow.signal
    def nudge(self) -> None:
        pass


@workflow.defn
class Buggy:
    """Lives with the failure of an activity; then its code has a bug, for as long as "code" is broken."""

    @workflow.run
    async def run(self, first: str) -> list[str]:
        timeout = timedelta(seconds=20)
        results: list[str] = []
        for name in (first, "three"):
            try:
                results.append(await workflow.execute_activity(step, name, activity_id=name, start_to_close_timeout=timeout))
            except ActivityError:
                results.append("handled")
        if "code" in broken:
            raise RuntimeError("a bug")  # fails the workflow task, not the workflow
        return results


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Steps, Buggy], activities=[step], workflow_runner=UnsandboxedWorkflowRunner())


async def failed(client: Client) -> WorkflowHandle[Steps, list[str]]:
    """A run whose second step failed; the step works from now on."""
    done.clear()
    broken.add("two")
    handle = await client.start_workflow(Steps.run, id="w", task_queue=QUEUE)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    broken.clear()
    return handle


def reset_request(**fields: Any) -> ResetWorkflowExecutionRequest:
    return ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id="w"), request_id=str(uuid.uuid4()), reason="mended", **fields
    )


async def test_the_dry_run_is_a_query_that_needs_no_worker(client: Client) -> None:
    async with worker(client):
        handle = await failed(client)
    before = (await handle.describe()).history_length
    point: dict[str, Any] = await handle.query(QUERY)
    assert (point["run_id"], point["steps_that_stay_done"]) == (handle.first_execution_run_id, 1)
    assert [(step["id"], step["outcome"], step["then"]) for step in point["again"]] == [("two", "failed", "runs again")]
    chosen: dict[str, Any] = await handle.query(QUERY, {"activity_id": "one"})
    assert chosen["workflow_task_finish_event_id"] < point["workflow_task_finish_event_id"]
    assert [step["id"] for step in chosen["again"]] == ["one", "two"]
    assert (await handle.describe()).history_length == before


async def test_a_reset_with_the_header_resumes_once_per_request(client: Client) -> None:
    service = client.workflow_service
    async with worker(client):
        await failed(client)
        request = reset_request()
        first = await service.reset_workflow_execution(request, metadata={"perdure-resume": "{}"})
        assert await client.get_workflow_handle_for(Steps.run, "w").result() == ["one", "two", "three"]
        assert done == {"one": 1, "two": 2, "three": 1}
        again = await service.reset_workflow_execution(request, metadata={"perdure-resume": "{}"})
        assert again.run_id == first.run_id
        # The step can be chosen, also of a run that completed.
        await service.reset_workflow_execution(reset_request(), metadata={"perdure-resume": '{"activity_id": "three"}'})
        await client.get_workflow_handle("w").result()
        assert done == {"one": 1, "two": 2, "three": 2}


async def test_the_point_of_the_dry_run_is_good_for_any_reset(client: Client) -> None:
    async with worker(client):
        handle = await failed(client)
        point: dict[str, Any] = await handle.query(QUERY)
        finish = point["workflow_task_finish_event_id"]
        await client.workflow_service.reset_workflow_execution(reset_request(workflow_task_finish_event_id=finish))
        assert await client.get_workflow_handle_for(Steps.run, "w").result() == ["one", "two", "three"]
        assert done == {"one": 1, "two": 2, "three": 1}


@pytest.mark.parametrize(("first", "result"), [("one", "one"), ("two", "handled")])
@pytest.mark.parametrize("after", [1, 2])
async def test_a_run_that_the_poison_policy_ended_goes_on_at_its_failing_task(client: Client, first: str, result: str, after: int) -> None:
    """An activity that failed before, and that the code lived with, is not to blame."""
    done.clear()
    broken.update(("two", "code"))
    policy = {NAMESPACE_KEY: f'{{"action": "fail", "after": {after}}}'}
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(namespace="default", update_info=UpdateNamespaceInfo(data=policy))
    )
    async with worker(client):
        handle = await client.start_workflow(Buggy.run, first, id="w", task_queue=QUEUE, task_timeout=timedelta(seconds=1))
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        broken.clear()
        point: dict[str, Any] = await handle.query(QUERY)
        assert (point["steps_that_stay_done"], [again["kind"] for again in point["again"]]) == (2, ["workflow code"])
        await client.workflow_service.reset_workflow_execution(reset_request(), metadata={"perdure-resume": "{}"})
        assert await client.get_workflow_handle_for(Buggy.run, "w").result() == [result, "three"]
    assert done == {first: 1, "three": 1}


@pytest.mark.parametrize(
    ("wanted", "status", "says"),
    [
        ("{}", RPCStatusCode.FAILED_PRECONDITION, "cannot resume: the run is open, and no activity"),
        ('{"activity_id": "ten"}', RPCStatusCode.FAILED_PRECONDITION, "there is no activity with the id 'ten'"),
        ('{"event_id": 1}', RPCStatusCode.FAILED_PRECONDITION, "event 1 does not begin an activity"),
        ('{"event_id": "1"}', RPCStatusCode.INVALID_ARGUMENT, "wants a JSON object"),
        ('{"step": 1}', RPCStatusCode.INVALID_ARGUMENT, "wants a JSON object"),
        ("[]", RPCStatusCode.INVALID_ARGUMENT, "wants a JSON object"),
        ("two", RPCStatusCode.INVALID_ARGUMENT, "wants a JSON object"),
    ],
)
async def test_what_cannot_be_resumed_is_refused(client: Client, wanted: str, status: RPCStatusCode, says: str) -> None:
    await client.start_workflow(Steps.run, id="w", task_queue=QUEUE)
    with pytest.raises(RPCError, match=says) as refused:
        await client.workflow_service.reset_workflow_execution(reset_request(), metadata={"perdure-resume": wanted})
    assert refused.value.status == status


async def test_a_point_and_the_header_exclude_each_other(client: Client) -> None:
    await client.start_workflow(Steps.run, id="w", task_queue=QUEUE)
    request = reset_request(workflow_task_finish_event_id=3)
    with pytest.raises(RPCError, match="exclude each other") as refused:
        await client.workflow_service.reset_workflow_execution(request, metadata={"perdure-resume": "{}"})
    assert refused.value.status == RPCStatusCode.INVALID_ARGUMENT
