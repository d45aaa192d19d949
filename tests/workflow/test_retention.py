"""What happens to a workflow id when one of its runs is removed."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, DescribeWorkflowExecutionRequest

from perdure.core.clock import DAY, SECOND
from perdure.core.errors import ApiError, Code
from tests.support.task_calls import complete_workflow
from tests.support.update_calls import accept, complete, next_task, respond, update
from tests.support.virtual_server import WORKFLOW_ID, VirtualServer, on_virtual_server

# Updates are waited for longer than the next look for expired runs takes.
PATIENT = {"history.longPollExpirationInterval": "55s"}


async def is_gone(server: VirtualServer, run_id: str) -> bool:
    execution = WorkflowExecution(workflow_id=WORKFLOW_ID, run_id=run_id)
    try:
        await server.call("DescribeWorkflowExecution", DescribeWorkflowExecutionRequest(namespace="default", execution=execution))
    except ApiError as error:
        return error.code == Code.NOT_FOUND
    return False


@pytest.mark.parametrize("by", ["retention", "request"])
def test_the_running_run_keeps_what_is_in_memory_only(by: str) -> None:
    """An update has reached the worker, and exists nowhere else, when an older run of the same workflow id is removed."""

    async def test(server: VirtualServer) -> None:
        old = await server.start_workflow()
        await server.decide(complete_workflow())
        if by == "retention":
            await server.pass_time(DAY / SECOND)
        await server.start_workflow(workflow_task_timeout=Duration(seconds=120))
        await server.decide()
        waiting = update(server, "kept")
        task = await next_task(server)
        if by == "retention":
            await server.pass_time(40)
        else:
            execution = WorkflowExecution(workflow_id=WORKFLOW_ID, run_id=old)
            request = DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
            await server.call("DeleteWorkflowExecution", request)
        assert await is_gone(server, old)
        (message,) = task.messages
        await complete(server, task, accept(message), respond(message))
        assert (await waiting).outcome.HasField("success")

    on_virtual_server(test, dynamic_config=PATIENT)


def test_a_removed_run_is_gone_and_its_id_can_be_used_again() -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow()
        await server.decide(complete_workflow())
        await server.pass_time(DAY / SECOND + 40)
        assert await is_gone(server, run_id)
        assert await is_gone(server, "")
        assert await server.start_workflow() != run_id
        assert not await is_gone(server, "")

    on_virtual_server(test)
