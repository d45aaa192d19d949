"""E4, E5, E11: the options of a run are changed while it runs, or when it is reset."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority, TimeSkippingConfig
from temporalio.api.history.v1 import WorkflowExecutionOptionsUpdatedEventAttributes
from temporalio.api.workflow.v1 import PostResetOperation, VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.support.requests import describe, events, execution, names, poll, signal, start, terminate

URGENT = WorkflowExecutionOptions(priority=Priority(priority_key=1))
INVALID = RPCStatusCode.INVALID_ARGUMENT


async def change(client: Client, options: WorkflowExecutionOptions, *paths: str, **fields: Any) -> WorkflowExecutionOptions:
    """Returns the options that are in force then."""
    defaults: dict[str, Any] = {
        "namespace": "default", "workflow_execution": execution("w"), "workflow_execution_options": options, "identity": "operator",
        "update_mask": FieldMask(paths=paths),
    }  # fmt: skip
    request = api.UpdateWorkflowExecutionOptionsRequest(**{**defaults, **fields})
    return (await client.workflow_service.update_workflow_execution_options(request)).workflow_execution_options


async def complete(client: Client, task: api.PollWorkflowTaskQueueResponse) -> None:
    await client.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
    )


async def changes(client: Client) -> list[WorkflowExecutionOptionsUpdatedEventAttributes]:
    found = await events(client, "w")
    return [
        e.workflow_execution_options_updated_event_attributes
        for e in found
        if e.HasField("workflow_execution_options_updated_event_attributes")
    ]


async def test_the_mask_says_what_of_the_priority_changes(client: Client) -> None:
    await start(client, "w", priority=Priority(priority_key=4, fairness_key="a", fairness_weight=2))
    assert await change(client, URGENT, "priority") == URGENT
    assert await change(client, URGENT, "priority") == URGENT
    other = WorkflowExecutionOptions(priority=Priority(priority_key=3, fairness_key="b"))
    assert (await change(client, other, "priority.fairness_key")).priority == Priority(priority_key=1, fairness_key="b")
    assert (await describe(client, "w")).workflow_execution_info.priority == Priority(priority_key=1, fairness_key="b")
    assert await change(client, other) == WorkflowExecutionOptions(priority=Priority(priority_key=1, fairness_key="b"))
    assert not (await change(client, WorkflowExecutionOptions(), "priority")).HasField("priority")
    found = await changes(client)
    assert [(event.priority, event.identity) for event in found] == [
        (Priority(priority_key=1), "operator"), (Priority(priority_key=1, fairness_key="b"), "operator"), (Priority(), "operator"),
    ]  # fmt: skip


async def test_an_override_of_the_versioning_comes_and_goes(client: Client) -> None:
    await start(client, "w")
    moving = WorkflowExecutionOptions(versioning_override=VersioningOverride(auto_upgrade=True))
    assert await change(client, moving, "versioning_override") == moving
    info = (await describe(client, "w")).workflow_execution_info.versioning_info
    assert info.versioning_override.auto_upgrade
    await change(client, WorkflowExecutionOptions(), "versioning_override")
    info = (await describe(client, "w")).workflow_execution_info.versioning_info
    assert not info.HasField("versioning_override")
    set_, unset = await changes(client)
    assert (set_.versioning_override, set_.unset_versioning_override) == (moving.versioning_override, False)
    assert (unset.HasField("versioning_override"), unset.unset_versioning_override) == (False, True)


async def test_a_priority_that_says_nothing_is_kept_as_it_was_given(client: Client) -> None:
    """SDKs send one with every start."""
    await start(client, "w", priority=Priority())
    moving = WorkflowExecutionOptions(versioning_override=VersioningOverride(auto_upgrade=True))
    assert (await change(client, moving, "versioning_override")).HasField("priority")
    assert [attributes.HasField("priority") for attributes in await changes(client)] == [True]


async def test_a_change_during_a_task_is_in_force_at_once_and_numbered_behind_it(client: Client) -> None:
    await start(client, "w")
    task = await poll(client)
    await change(client, URGENT, "priority")
    assert (await describe(client, "w")).workflow_execution_info.priority.priority_key == 1
    await complete(client, task)
    assert names(await events(client, "w"))[3:] == [
        "WORKFLOW_TASK_COMPLETED",
        "WORKFLOW_EXECUTION_OPTIONS_UPDATED",
        "WORKFLOW_TASK_SCHEDULED",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"update_mask": None}, "UpdateMask is required"),
        ({"workflow_execution_options": None}, "WorkflowExecutionOptions is required"),
        (
            {"update_mask": FieldMask(paths=["nothing"])},
            'error parsing UpdateMask: proto: invalid path "nothing" for message "temporal.api.workflow.v1.WorkflowExecutionOptions"',
        ),
        ({"workflow_execution_options": WorkflowExecutionOptions(priority=Priority(priority_key=-1))}, "priority key can't be negative"),
        ({"workflow_execution": execution("")}, "WorkflowId is not set on request."),
    ],
)
async def test_requests_that_make_no_sense_are_refused(client: Client, fields: dict[str, Any], message: str) -> None:
    await start(client, "w")
    with pytest.raises(RPCError) as refused:
        await change(client, URGENT, "priority", **fields)
    assert (refused.value.status, refused.value.message) == (INVALID, message)
    assert await changes(client) == []


async def test_no_option_makes_a_run_skip_time(client: Client) -> None:
    """The feature is switched off, as it is by default on the official server: whoever asks for it has to know that it does not work."""
    await start(client, "w")
    await complete(client, await poll(client))
    skipping = WorkflowExecutionOptions(time_skipping_config=TimeSkippingConfig(enabled=True))
    with pytest.raises(RPCError, match="The Time-Skipping feature is not enabled for namespace") as refused:
        await change(client, skipping, "time_skipping_config")
    assert refused.value.status == RPCStatusCode.UNIMPLEMENTED
    with pytest.raises(RPCError, match="The Time-Skipping feature is not enabled for namespace") as refused:
        await reset(client, options_operation(skipping, "time_skipping_config"))
    assert refused.value.status == RPCStatusCode.UNIMPLEMENTED


async def test_a_closed_run_keeps_its_options(client: Client) -> None:
    await start(client, "w")
    await terminate(client, "w")
    with pytest.raises(RPCError, match="workflow execution already completed") as refused:
        await change(client, URGENT, "priority")
    assert refused.value.status == RPCStatusCode.NOT_FOUND


# -- with a reset -----------------------------------------------------------------------------------------------
async def reset(client: Client, *operations: PostResetOperation) -> str:
    request = api.ResetWorkflowExecutionRequest(
        namespace="default", workflow_execution=execution("w"), reason="again", request_id="r", workflow_task_finish_event_id=4,
        post_reset_operations=operations,
    )  # fmt: skip
    return (await client.workflow_service.reset_workflow_execution(request)).run_id


def options_operation(options: WorkflowExecutionOptions, *paths: str) -> PostResetOperation:
    update = PostResetOperation.UpdateWorkflowOptions(workflow_execution_options=options, update_mask=FieldMask(paths=paths))
    return PostResetOperation(update_workflow_options=update)


async def test_the_run_that_a_reset_makes_gets_other_options(client: Client) -> None:
    old = (await start(client, "w", priority=Priority(priority_key=4))).run_id
    await complete(client, await poll(client))
    await signal(client, "w")
    moving = WorkflowExecutionOptions(versioning_override=VersioningOverride(auto_upgrade=True))
    new = await reset(client, options_operation(URGENT, "priority"), options_operation(moving, "versioning_override"))
    assert names(await events(client, "w", new))[3:] == [
        "WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_EXECUTION_OPTIONS_UPDATED", "WORKFLOW_EXECUTION_OPTIONS_UPDATED",
        "WORKFLOW_TASK_SCHEDULED",
    ]  # fmt: skip
    info = (await describe(client, "w", new)).workflow_execution_info
    assert (info.priority.priority_key, info.versioning_info.versioning_override.auto_upgrade) == (1, True)
    assert (await describe(client, "w", old)).workflow_execution_info.priority.priority_key == 4


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (PostResetOperation(), "unsupported post reset operation: <nil>"),
        (
            PostResetOperation(signal_workflow=PostResetOperation.SignalWorkflow(signal_name="s")),
            "unsupported post reset operation: *workflow.PostResetOperation_SignalWorkflow_",
        ),
        (
            options_operation(WorkflowExecutionOptions(priority=Priority(priority_key=-1)), "priority"),
            "priority key can't be negative",
        ),
        (
            options_operation(URGENT, "nothing"),
            'error applying update_options: proto: invalid path "nothing" for message "temporal.api.workflow.v1.WorkflowExecutionOptions"',
        ),
    ],
)
async def test_a_reset_with_an_operation_that_cannot_be_done_does_nothing(
    client: Client, operation: PostResetOperation, message: str
) -> None:
    run_id = (await start(client, "w")).run_id
    await complete(client, await poll(client))
    with pytest.raises(RPCError) as refused:
        await reset(client, options_operation(URGENT, "priority"), operation)
    assert (refused.value.status, refused.value.message) == (INVALID, message)
    info = (await describe(client, "w")).workflow_execution_info
    assert (info.execution.run_id, info.status, info.HasField("priority")) == (run_id, 1, False)
