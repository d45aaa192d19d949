"""How soon one run may follow another under the same workflow id: by itself, or because somebody starts it."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import (
    Command,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
)
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType, ResourceExhaustedCause, WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure

from perdure.core.clock import SECOND, duration_ns
from perdure.core.errors import ApiError, Code
from tests.support.task_calls import terminate
from tests.support.virtual_server import QUEUE, VirtualServer, on_virtual_server

TERMINATE_EXISTING = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
TERMINATE_IF_RUNNING = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
INTERVAL = "history.workflowIdReuseMinimalInterval"
VALIDATION = "history.enableWorkflowIdReuseStartTimeValidation"


@pytest.mark.parametrize(("interval", "wait"), [(None, 1), ("5s", 5), (0, 0)])
def test_a_run_that_continues_as_new_at_once_is_held_back(interval: object, wait: int) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        attributes = ContinueAsNewWorkflowExecutionCommandAttributes(workflow_type=WorkflowType(name="Workflow"), task_queue=QUEUE)
        again = Command(
            command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
            continue_as_new_workflow_execution_command_attributes=attributes,
        )
        await server.decide(again)
        (started, *_) = await server.history()
        assert duration_ns(started.workflow_execution_started_event_attributes.first_workflow_task_backoff) == wait * SECOND
        before = server.clock.now()
        await server.decide()
        assert 0 <= server.clock.now() - before - wait * SECOND < SECOND // 1000

    on_virtual_server(test, dynamic_config={} if interval is None else {INTERVAL: interval})


async def refused(server: VirtualServer, **more: Any) -> str:
    with pytest.raises(ApiError) as caught:
        await server.start_workflow(**more)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    detail = caught.value.detail
    assert isinstance(detail, ResourceExhaustedFailure)
    assert detail.cause == ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW
    return caught.value.message


@pytest.mark.parametrize(("is_closed", "what"), [(False, "restarts"), (True, "starts")])
def test_who_starts_over_too_soon_is_refused(is_closed: bool, what: str) -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow()
        if is_closed:
            await terminate(server)
        message = f"Too many {what} for workflow workflow. Time since last start: "
        assert await refused(server, workflow_id_conflict_policy=TERMINATE_EXISTING) == message + "0 ms"
        await server.pass_time(2.99)
        assert (await refused(server, workflow_id_conflict_policy=TERMINATE_EXISTING)).startswith(message + "299")
        assert (await server.state()).run_id == run_id
        await server.pass_time(0.02)
        assert await server.start_workflow(workflow_id_conflict_policy=TERMINATE_EXISTING) != run_id

    on_virtual_server(test, dynamic_config={INTERVAL: "3s", VALIDATION: True})


@pytest.mark.parametrize("dynamic_config", [{}, {VALIDATION: True, INTERVAL: 0}])
def test_nobody_is_refused_unless_it_is_asked_for(dynamic_config: dict[str, Any]) -> None:
    async def test(server: VirtualServer) -> None:
        first = await server.start_workflow()
        assert await server.start_workflow(workflow_id_conflict_policy=TERMINATE_EXISTING) != first
        await terminate(server)
        await server.start_workflow()

    on_virtual_server(test, dynamic_config=dynamic_config)


def test_a_child_that_comes_too_soon_begins_later() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        await server.start_workflow("child")
        began = server.clock.now()
        attributes = StartChildWorkflowExecutionCommandAttributes(
            workflow_id="child", workflow_type=WorkflowType(name="Child"), task_queue=QUEUE, workflow_id_reuse_policy=TERMINATE_IF_RUNNING
        )
        start_child = CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION
        await server.decide(Command(command_type=start_child, start_child_workflow_execution_command_attributes=attributes))
        await server.pass_time(20)
        (started, *_) = await server.history("child")
        assert started.workflow_execution_started_event_attributes.workflow_type.name == "Child"
        assert started.event_time.ToNanoseconds() > began + 3 * SECOND

    on_virtual_server(test, dynamic_config={INTERVAL: "3s", VALIDATION: True})
