"""What the metrics endpoint shows of a server that has worked: every metric there is has somebody who feeds it."""

# pyright: reportUnknownMemberType=false
# The SDK leaves the type of some arguments of its update methods open.

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    PollWorkflowTaskQueueRequest,
    ResetActivityRequest,
    UnpauseActivityRequest,
    UpdateActivityOptionsRequest,
)
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.app import Server
from perdure.settings import ServerSettings
from tests.support.waiting import until

QUEUE = "measured"
SHORT = timedelta(seconds=1)
TERMINATE = WorkflowIDConflictPolicy.TERMINATE_EXISTING
LONG = timedelta(seconds=30)

ONLY_IN_TROUBLE = {"service_errors", "service_errors_resource_exhausted", "persistence_errors"}
"""Counted when the server or its store is in trouble; their own tests make such trouble."""


@activity.defn
async def act(kind: str) -> str:
    if kind == "fails":
        raise ApplicationError("no", non_retryable=activity.info().attempt == 2)
    if kind in ("is canceled", "is late"):
        await until(says_that_it_lives)
    return kind


async def says_that_it_lives() -> bool:
    activity.heartbeat()
    return False


@workflow.defn
class Measured:
    """Ends in the way it is told."""

    @workflow.run
    async def run(self, kind: str) -> None:
        if kind == "continues":
            workflow.continue_as_new("completes")
        if kind == "breaks":
            raise RuntimeError("this fails the workflow task")
        if kind == "waits":
            await workflow.wait_condition(lambda: False)
        if kind == "fails":
            raise ApplicationError("no")
        if kind == "obeys":
            await workflow.execute_activity(act, kind, activity_id="a", task_queue="nobody works here", start_to_close_timeout=LONG)
        await workflow.execute_activity(act, "completes", start_to_close_timeout=LONG)
        for each in ("fails", "is late"):
            try:
                await workflow.execute_activity(
                    act, each, start_to_close_timeout=LONG if each == "fails" else SHORT / 2, schedule_to_close_timeout=SHORT,
                    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=1)),
                )  # fmt: skip
            except ActivityError:
                continue
        canceled = workflow.start_activity(
            act, "is canceled", start_to_close_timeout=LONG, heartbeat_timeout=SHORT,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip
        await workflow.sleep(0.1)
        canceled.cancel()
        await asyncio.wait([canceled])

    @workflow.update
    async def change(self, kind: str) -> None:
        """Does nothing, or never comes to an end."""
        await workflow.wait_condition(lambda: kind == "completes")

    @change.validator
    def check(self, kind: str) -> None:
        if kind == "is refused":
            raise ApplicationError("no")


@pytest.fixture
async def measured_server() -> AsyncIterator[Server]:
    async with Server(ServerSettings(grpc_port=0, metrics_port=0, database="")) as server:
        yield server


async def shown(server: Server) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://{server.metrics_address}/metrics")).text


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if labels.items() <= given.items():
                total += float(found[3])
    return total


async def end(client: Client, kind: str) -> None:
    """Run one to its end, of whatever kind."""
    handle: WorkflowHandle[Measured, None] = await client.start_workflow(
        Measured.run, kind.split()[0], id=kind, task_queue=QUEUE, run_timeout=SHORT if kind == "waits too long" else None
    )
    if kind == "waits, canceled":
        await handle.cancel()
    elif kind == "waits, terminated":
        await handle.terminate()
    elif kind == "breaks":
        await until(lambda: failed_task(handle))
        await handle.terminate()
    try:
        await handle.result()
    except WorkflowFailureError:
        assert kind != "completes"


async def update(client: Client) -> None:
    """Update a run in every way, and leave it to end with an update that it has accepted."""
    handle = await client.start_workflow(Measured.run, "waits", id="is updated", task_queue=QUEUE)
    await until(lambda: completed_task(handle))
    await handle.execute_update(Measured.change, "completes")
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Measured.change, "is refused")
    await handle.start_update(Measured.change, "never", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    await handle.terminate()


async def completed_task(handle: WorkflowHandle[Measured, None]) -> bool:
    return any(event.HasField("workflow_task_completed_event_attributes") for event in (await handle.fetch_history()).events)


async def operate(client: Client) -> None:
    """Do to an activity whatever an operator can do. It waits in its queue then."""
    handle = await client.start_workflow(Measured.run, "obeys", id="obeys", task_queue=QUEUE)

    async def has_activity() -> bool:
        return bool((await handle.describe()).raw_description.pending_activities)

    await until(has_activity)
    service = client.workflow_service
    named: dict[str, Any] = {"namespace": "default", "execution": WorkflowExecution(workflow_id="obeys")}
    await service.pause_activity(PauseActivityRequest(**named, type="act"))
    await service.unpause_activity(UnpauseActivityRequest(**named, unpause_all=True))
    await service.reset_activity(ResetActivityRequest(**named, match_all=True))
    options, mask = ActivityOptions(heartbeat_timeout=Duration(seconds=1)), FieldMask(paths=["heartbeat_timeout"])
    await service.update_activity_options(UpdateActivityOptionsRequest(**named, id="a", activity_options=options, update_mask=mask))


async def failed_task(handle: WorkflowHandle[Measured, None]) -> bool:
    return any(event.HasField("workflow_task_failed_event_attributes") for event in (await handle.fetch_history()).events)


async def test_every_metric_is_fed(measured_server: Server) -> None:
    client = await Client.connect(measured_server.grpc_address)
    service = client.workflow_service
    poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="empty"), identity="w")
    waiting = asyncio.create_task(service.poll_workflow_task_queue(poll, timeout=timedelta(seconds=3)))
    kinds = ["completes", "fails", "continues", "breaks", "waits too long", "waits,canceled", "waits,terminated"]
    await client.start_workflow(Measured.run, "completes", id="nobody polls yet", task_queue=QUEUE)
    async with Worker(client, task_queue=QUEUE, workflows=[Measured], activities=[act], workflow_runner=UnsandboxedWorkflowRunner()):
        await asyncio.gather(update(client), *(end(client, kind.replace(",", ", ")) for kind in kinds))
        await client.get_workflow_handle("nobody polls yet").result()
        with pytest.raises(RPCError):
            await client.get_workflow_handle("unknown").describe()
        await waiting
        await operate(client)

        text = await shown(measured_server)
        of_type = {"operation": "CompletionStats", "namespace": "default", "taskqueue": QUEUE, "workflowType": "Measured"}
        outcomes = ("success", "failed", "timeout", "cancel", "terminate", "continued_as_new")
        assert {name: value(text, f"workflow_{name}", **of_type) for name in outcomes} == {
            "success": 3, "failed": 1, "timeout": 1, "cancel": 1, "terminate": 3, "continued_as_new": 1,
        }  # fmt: skip
        assert value(text, "workflow_schedule_to_close_latency_count", **of_type) == 10
        assert value(text, "workflow_schedule_to_close_latency_sum", **of_type) >= 1.0  # one of them ran out of time
        operated = {"pause": "type", "unpause": "unpause_all", "reset": "match_all", "update_options": "id"}
        for what, how in operated.items():
            assert value(text, f"activity_{what}", namespace="default", activity_targeting_method=how) == 1
        assert value(text, "paused_activities", namespace="default", workflowType="Measured", activityType="act") == 1
        assert value(text, "activity_heartbeat_count", namespace="default", has_details="false") >= 1
        failed_tasks = {"operation": "RespondWorkflowTaskFailed", "namespace": "default", "failure": "WorkflowWorkerUnhandledFailure"}
        assert value(text, "failed_workflow_tasks", **failed_tasks) >= 1
        asked = {"operation": "UpdateWorkflowExecution", "namespace": "default", "service_name": "frontend"}
        assert value(text, "workflow_update_wait_stage_completed", **asked) == 2
        assert value(text, "workflow_update_wait_stage_accepted", **asked) == 1
        assert value(text, "workflow_update_sent_to_worker", namespace="default") == 3
        assert value(text, "workflow_update_aborted", namespace="default", reason="WorkflowCompleted") == 1
        assert value(text, "speculative_workflow_task_commits", namespace="default", reason="worker_returned_commands") == 2
        assert value(text, "speculative_workflow_task_rollbacks", namespace="default") == 1
        commits = value(text, "perdure_commit_rows_count")
        assert value(text, "state_transition_count_count", namespace="default") >= commits > 10
        assert value(text, "cache_requests", cache_type="mutablestate") > value(text, "cache_miss", cache_type="mutablestate") >= len(kinds)
        assert value(text, "cache_size") == measured_server.settings.cache_size_bytes
        assert 10_000 < value(text, "cache_usage") < measured_server.settings.cache_size_bytes
        assert value(text, "perdure_event_loop_lag_count") >= 4

        unfed = {
            family.name
            for family in measured_server.core.registry.families
            if not value(text, family.name) and not value(text, f"{family.name}_count")
        }
        assert unfed == ONLY_IN_TROUBLE
    await client.start_workflow(Measured.run, "completes", id="waits for a worker", task_queue="nobody polls this")
    text = await shown(measured_server)
    labels = {"namespace": "default", "taskqueue": "nobody polls this", "task_type": "Workflow"}
    assert value(text, "approximate_backlog_count", **labels) == 1
    assert value(text, "approximate_backlog_age_seconds", **labels) > 0


async def test_queues_that_nobody_uses_any_more_leave_the_metrics(measured_server: Server) -> None:
    matching, registry = measured_server.core.matching, measured_server.core.registry
    client = await Client.connect(measured_server.grpc_address)
    for number in range(300):
        await client.start_workflow(Measured.run, "waits", id="same", task_queue=f"own-{number}", id_conflict_policy=TERMINATE)
    await client.get_workflow_handle("same").terminate()
    assert registry.render().count("no_poller_tasks{") == 300
    for key in list(matching.queues):
        matching.unload(key)
    assert "own-" not in "".join(line for line in registry.render().splitlines() if "workflow_" not in line)
