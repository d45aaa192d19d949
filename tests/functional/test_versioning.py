"""E5: what a run that is bound to a version of its workers hands on to those that come from it."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, StartChildWorkflowExecutionFailedCause, VersioningBehavior, WorkerVersioningMode
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client

from perdure.core.clock import MILLISECOND, to_duration
from tests.support.requests import QUEUE, describe, events, poll, start
from tests.support.waiting import until

PINNED = VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
AUTO_UPGRADE = VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE
VERSIONED = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
OPTIONS = {"deployment_name": "orders", "build_id": "b1", "worker_versioning_mode": VERSIONED}


def command(name: str, **attributes: Any) -> Command:
    fields: Any = {f"{name}_command_attributes": attributes}
    return Command(command_type=CommandType.Value(f"COMMAND_TYPE_{name.upper()}"), **fields)


async def answer(client: Client, *commands: Command, behavior: int = PINNED, options: Any = OPTIONS) -> None:
    task = await poll(client)
    assert task.task_token
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=task.task_token, commands=commands, versioning_behavior=behavior, deployment_options=options  # pyright: ignore
        )
    )  # fmt: skip


async def first_event(client: Client, workflow_id: str) -> WorkflowExecutionStartedEventAttributes:
    return (await events(client, workflow_id))[0].workflow_execution_started_event_attributes


async def test_a_pinned_run_shows_its_version(client: Client) -> None:
    await start(client, "w")
    await answer(client)
    info = (await describe(client, "w")).workflow_execution_info
    assert info.versioning_info.behavior == PINNED
    assert (info.versioning_info.deployment_version.deployment_name, info.versioning_info.deployment_version.build_id) == ("orders", "b1")
    assert info.worker_deployment_name == "orders"
    assert [point.build_id for point in info.auto_reset_points.points] == ["b1"]


@pytest.mark.parametrize(
    ("behavior", "attributes", "inherits"),
    [
        (PINNED, {}, True),
        (PINNED, {"task_queue": {"name": "another"}}, False),
        (PINNED, {"initial_versioning_behavior": 1}, False),
        (AUTO_UPGRADE, {}, False),
    ],
)
async def test_continue_as_new(client: Client, behavior: int, attributes: dict[str, Any], inherits: bool) -> None:
    await start(client, "w")
    await answer(client, command("continue_as_new_workflow_execution", **attributes), behavior=behavior)
    started = await first_event(client, "w")
    assert started.continued_execution_run_id
    assert started.inherited_pinned_version.build_id == ("b1" if inherits else "")
    assert (await describe(client, "w")).workflow_execution_info.versioning_info.behavior == (PINNED if inherits else 0)


@pytest.mark.parametrize(("queue", "inherits"), [("", True), (QUEUE, True), ("another", False)])
async def test_children(client: Client, queue: str, inherits: bool) -> None:
    await start(client, "w")
    child = {"workflow_id": "c", "workflow_type": {"name": "Child"}, "task_queue": {"name": queue}}
    await answer(client, command("start_child_workflow_execution", **child))

    async def has_begun() -> bool:
        found = await events(client, "w")
        return any(event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED for event in found)

    await until(has_begun)
    assert (await first_event(client, "c")).inherited_pinned_version.build_id == ("b1" if inherits else "")


VERSION = {"deployment_name": "orders", "build_id": "b2"}


@pytest.mark.parametrize("override", [{"pinned": {"behavior": 1}}, {"pinned": {"behavior": 1, "version": VERSION}}])
async def test_a_child_cannot_be_bound_to_a_version_that_nobody_has(client: Client, override: dict[str, Any]) -> None:
    await start(client, "w")
    child = {"workflow_id": "c", "workflow_type": {"name": "Child"}, "task_queue": {"name": "another"}, "versioning_override": override}
    await answer(client, command("start_child_workflow_execution", **child), behavior=0, options=None)
    failed = next(
        event for event in (await poll(client)).history.events if event.HasField("start_child_workflow_execution_failed_event_attributes")
    )
    cause = StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_INVALID_VERSIONING_OVERRIDE
    assert failed.start_child_workflow_execution_failed_event_attributes.cause == cause


@pytest.mark.parametrize(
    ("override", "shown"), [({}, ""), ({"behavior": AUTO_UPGRADE}, "auto_upgrade"), ({"auto_upgrade": True}, "auto_upgrade")]
)
async def test_the_override_of_a_child_is_shown_in_its_current_form(client: Client, override: dict[str, Any], shown: str) -> None:
    await start(client, "w")
    child = {"workflow_id": "c", "workflow_type": {"name": "Child"}, "task_queue": {"name": "another"}, "versioning_override": override}
    await answer(client, command("start_child_workflow_execution", **child), behavior=0, options=None)
    found = (await poll(client)).history.events
    initiated = next(event for event in found if event.HasField("start_child_workflow_execution_initiated_event_attributes"))
    for started in (initiated.start_child_workflow_execution_initiated_event_attributes, await first_event(client, "c")):
        assert started.HasField("versioning_override") == bool(shown)
        assert (started.versioning_override.WhichOneof("override") or "") == shown
        assert not started.versioning_override.behavior  # pyright: ignore[reportDeprecated]


async def test_a_retry_inherits_what_the_run_had_inherited(client: Client) -> None:
    """The first run of the chain had inherited nothing: its retry may begin on any version. The successor's retry may not."""
    policy = {"initial_interval": to_duration(MILLISECOND), "backoff_coefficient": 1.0, "maximum_attempts": 10}
    await start(client, "w", retry_policy=policy)
    fail = command("fail_workflow_execution", failure={"message": "no", "application_failure_info": {}})
    await answer(client, fail)
    retried = await first_event(client, "w")
    assert (retried.attempt, retried.inherited_pinned_version.build_id) == (2, "")
    await answer(client, command("continue_as_new_workflow_execution", retry_policy=policy))
    assert (await first_event(client, "w")).inherited_pinned_version.build_id == "b1"
    await answer(client, fail)
    again = await first_event(client, "w")
    assert (again.attempt, again.inherited_pinned_version.build_id) == (2, "b1")


async def test_a_task_of_an_unversioned_worker_unbinds_the_run(client: Client) -> None:
    await start(client, "w")
    await answer(client, command("continue_as_new_workflow_execution"))
    await answer(client, behavior=0, options=None)
    assert (await describe(client, "w")).workflow_execution_info.versioning_info.behavior == 0
