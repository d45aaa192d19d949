"""E5: what a worker's commands may address: their own namespace, and queues that belong to its users."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType
from temporalio.api.enums.v1 import WorkflowTaskFailedCause as Cause
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import DAY, to_duration
from perdure.core.errors import ApiError, Code
from tests.support.activity_calls import schedule
from tests.support.task_calls import poll, types
from tests.support.virtual_server import VirtualServer, on_virtual_server

SERVER_QUEUES = ("temporal-sys-per-ns-tq", "temporal-sys-worker-controller-per-ns-tq")
REFUSED_QUEUE = f"cannot use internal per-namespace task queue:{SERVER_QUEUES[0]}"


def command(name: str, **attributes: Any) -> Command:
    return Command(command_type=CommandType.Value(f"COMMAND_TYPE_{name.upper()}"), **{f"{name}_command_attributes": attributes})  # type: ignore[arg-type]  # pyright: ignore


def child(**more: Any) -> Command:
    return command("start_child_workflow_execution", workflow_id="there", workflow_type={"name": "Child"}, **more)


def signal(**more: Any) -> Command:
    return command("signal_external_workflow_execution", execution={"workflow_id": "there"}, signal_name="go", **more)


def cancel(**more: Any) -> Command:
    return command("request_cancel_external_workflow_execution", workflow_id="there", **more)


OTHER = {
    "BAD_START_CHILD_EXECUTION_ATTRIBUTES": (child, "START_CHILD_WORKFLOW_EXECUTION_INITIATED"),
    "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES": (signal, "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED"),
    "BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES": (cancel, "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"),
}
"""Cause → a command that can leave its namespace, and the event that shows that it did."""


async def two_namespaces(server: VirtualServer) -> None:
    """There is a workflow in each."""
    request = service.RegisterNamespaceRequest(namespace="other", workflow_execution_retention_period=to_duration(DAY))
    await server.call("RegisterNamespace", request)
    await server.start_workflow()
    start = service.StartWorkflowExecutionRequest(
        namespace="other", workflow_id="there", workflow_type={"name": "Workflow"}, task_queue={"name": "there"}, request_id="r",  # type: ignore[arg-type]  # pyright: ignore
    )  # fmt: skip
    await server.call("StartWorkflowExecution", start)


async def refused(server: VirtualServer, answer: Command) -> tuple[str, str]:
    """The cause of the task that the command failed, and what the worker is told."""
    with pytest.raises(ApiError) as caught:
        await server.decide(answer)
    assert caught.value.code == Code.INVALID_ARGUMENT
    failed = next(e for e in reversed(await server.history()) if e.HasField("workflow_task_failed_event_attributes"))
    attributes = failed.workflow_task_failed_event_attributes
    assert attributes.failure.message == caught.value.message
    return Cause.Name(attributes.cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_"), caught.value.message


@pytest.mark.parametrize("cause", OTHER)
def test_a_command_stays_in_its_namespace(cause: str) -> None:
    async def test(server: VirtualServer) -> None:
        await two_namespaces(server)
        found, message = await refused(server, OTHER[cause][0](namespace="other"))
        assert found == cause
        assert message.endswith(": cross namespace commands are not allowed")
        await poll(server)  # it goes on: the worker tries again
        await server.start_workflow("own")
        await server.decide(OTHER[cause][0](namespace="default"))

    on_virtual_server(test)


@pytest.mark.parametrize("cause", OTHER)
def test_an_operator_may_let_commands_leave_their_namespace(cause: str) -> None:
    make, event = OTHER[cause]

    async def test(server: VirtualServer) -> None:
        await two_namespaces(server)
        await server.decide(make(namespace="other"))
        await poll(server)  # with the outcome
        assert event in await types(server)

    on_virtual_server(test, dynamic_config={"system.enableCrossNamespaceCommands": True})


@pytest.mark.parametrize("queue", SERVER_QUEUES)
@pytest.mark.parametrize("method", ["StartWorkflowExecution", "SignalWithStartWorkflowExecution"])
def test_no_workflow_starts_on_a_queue_of_the_server(method: str, queue: str) -> None:
    async def test(server: VirtualServer) -> None:
        more = {"signal_name": "go"} if method.startswith("Signal") else {}
        request = getattr(service, f"{method}Request")(
            namespace="default", workflow_id="w", workflow_type={"name": "Workflow"}, task_queue={"name": queue}, **more
        )
        with pytest.raises(ApiError) as caught:
            await server.call(method, request)
        assert (caught.value.code, caught.value.message) == (
            Code.INVALID_ARGUMENT,
            f"cannot use internal per-namespace task queue:{queue}",
        )

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (child(task_queue={"name": SERVER_QUEUES[0]}), "BAD_START_CHILD_EXECUTION_ATTRIBUTES"),
        (schedule(task_queue={"name": SERVER_QUEUES[0]}), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (command("continue_as_new_workflow_execution", task_queue={"name": SERVER_QUEUES[0]}), "BAD_CONTINUE_AS_NEW_ATTRIBUTES"),
    ],
    ids=["child", "activity", "continue as new"],
)
def test_no_command_names_a_queue_of_the_server(answer: Command, cause: str) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        found, message = await refused(server, answer)
        assert found == cause
        assert f"{REFUSED_QUEUE} (in parent component task queue: queue)" in message

    on_virtual_server(test)
