"""Workers that say anything: whatever commands, options and answers hold, a run goes on or is told why not, and the server is not at fault.

Other than :mod:`tests.rpc.test_any_request` this reaches what needs a task in a worker's hand, and what comes of it later: time passes on
a virtual clock, and the inspector looks at every step.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, TaskQueueKind
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice import v1 as service

from perdure.core.errors import ApiError, Code
from tests.support.any_message import AnyMessage
from tests.support.task_calls import elapse, poll
from tests.support.virtual_server import QUEUE, VirtualServer, on_virtual_server

SEEDS = range(8)
RUNS = 25
TASKS = 4
OUR_FAULT = {Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS, Code.UNAVAILABLE}

IDS = [f"w{number}" for number in range(RUNS)]
POOLS = {
    "namespace": ["default"], "workflow_id": [*IDS, "child", ""], "run_id": [""], "activity_id": ["a", "b", ""], "timer_id": ["t", "u"],
    "request_id": ["r", "s"], "name": [QUEUE.name], "signal_name": ["go"], "identity": ["me"], "normal_name": [QUEUE.name],
    "first_execution_run_id": [""], "cron_schedule": ["", "", "@hourly"], "marker_name": ["m"], "base_run_id": [""],
}  # fmt: skip
COMMANDS = [field.name for field in Command.DESCRIPTOR.fields if field.containing_oneof is not None and "nexus" not in field.name]
ACTIVITY = "schedule_activity_task_command_attributes"
ACTIVITY_ANSWERS = (
    service.RespondActivityTaskCompletedRequest,
    service.RespondActivityTaskFailedRequest,
    service.RespondActivityTaskCanceledRequest,
    service.RecordActivityTaskHeartbeatRequest,
)
CONTROLS = (
    service.UpdateActivityOptionsRequest,
    service.PauseActivityRequest,
    service.UnpauseActivityRequest,
    service.ResetActivityRequest,
    service.UpdateWorkflowExecutionOptionsRequest,
    service.PauseWorkflowExecutionRequest,
    service.UnpauseWorkflowExecutionRequest,
    service.SignalWorkflowExecutionRequest,
    service.RequestCancelWorkflowExecutionRequest,
)


class Anything:
    """A worker and an operator of one server."""

    def __init__(self, server: VirtualServer, seed: int) -> None:
        self._server = server
        self._maker = AnyMessage(seed, {**POOLS})
        self._random = self._maker.random

    async def run(self, workflow_id: str) -> None:
        """One run from its start to the end of its luck."""
        if not await self._call("StartWorkflowExecution", self._start(workflow_id)):
            with contextlib.suppress(ApiError):  # somebody's child has the name
                await self._server.start_workflow(workflow_id)
        for _ in range(TASKS):
            task = await poll(self._server, timeout=2)
            if task.task_token:
                await self._call("RespondWorkflowTaskCompleted", self._completion(task.task_token))
            for _ in range(3):
                await self._control(workflow_id)
            activity = await self._server.activity_task(timeout=2)
            if activity.task_token:
                await self._answer(activity.task_token)
            described = service.DescribeWorkflowExecutionRequest(namespace="default")
            described.execution.workflow_id = workflow_id
            await self._call("DescribeWorkflowExecution", described)
            await elapse(self._server, self._random.choice((0.1, 1, 11, 70)))

    async def _call(self, method: str, request: Message) -> bool:
        """Whether it was accepted. A bug comes out of it as an exception."""
        try:
            await self._server.call(method, request)
        except ApiError as error:
            if error.code in OUR_FAULT:
                pytest.fail(f"{method}: {error.code.name} {error.message}\n{str(request)[:2_000]}")
            return False
        return True

    def _make(self, message_type: type[Message]) -> Any:
        return self._maker.make(message_type)

    def _start(self, workflow_id: str) -> Message:
        request = self._make(service.StartWorkflowExecutionRequest)
        request.namespace, request.workflow_id = "default", workflow_id
        request.workflow_type.name = "Workflow"
        request.task_queue.CopyFrom(QUEUE)
        for field in ("versioning_override", "time_skipping_config", "completion_callbacks"):  # refused, nearly always
            request.ClearField(field)
        return request

    def _completion(self, token: bytes) -> Message:
        request = service.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=token, force_create_new_workflow_task=self._random.random() < 0.8
        )
        names = self._random.choices(COMMANDS, k=self._random.choice((0, 1, 1, 3)))
        if self._random.random() < 0.6:
            names.insert(0, ACTIVITY)
        for name in names:
            command = request.commands.add()
            command.command_type = CommandType.Value("COMMAND_TYPE_" + name.removesuffix("_command_attributes").upper())
            attributes: Message = getattr(command, name)
            attributes.CopyFrom(self._make(type(attributes)))
            if name == ACTIVITY:
                self._make_possible(attributes)
        if self._random.random() < 0.3:
            request.sticky_attributes.CopyFrom(self._make(StickyExecutionAttributes))
            sticky = TaskQueue(name="sticky", kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=QUEUE.name)
            request.sticky_attributes.worker_task_queue.CopyFrom(sticky)
        return request

    def _make_possible(self, activity: Any) -> None:
        """Leave what is odd and yet accepted: times of all sizes."""
        activity.activity_id = self._random.choice("ab")
        activity.activity_type.name = "Activity"
        activity.task_queue.CopyFrom(QUEUE)
        if self._random.random() < 0.7:
            activity.ClearField("retry_policy")
        for field in (activity.start_to_close_timeout, activity.schedule_to_close_timeout):
            field.nanos = 0
            field.seconds = field.seconds if field.seconds > 0 else 5

    async def _answer(self, token: bytes) -> None:
        request = self._make(self._random.choice(ACTIVITY_ANSWERS))
        request.namespace, request.task_token = "default", token
        await self._call(type(request).__name__.removesuffix("Request"), request)

    async def _control(self, workflow_id: str) -> None:
        kind = self._random.choice(CONTROLS)
        name = kind.__name__.removesuffix("Request")
        request = self._make(kind)
        request.namespace = "default"
        if name in {"PauseWorkflowExecution", "UnpauseWorkflowExecution"}:
            request.workflow_id = workflow_id
        else:
            execution = request.execution if hasattr(request, "execution") else request.workflow_execution
            execution.workflow_id = workflow_id
        if "Activity" in name and self._random.random() < 0.8:
            request.id = self._random.choice("ab")
        for options in ("activity_options", "workflow_execution_options"):
            if hasattr(request, options):
                paths = [field.name for field in getattr(request, options).DESCRIPTOR.fields]
                request.update_mask.CopyFrom(FieldMask(paths=self._random.sample(paths, 2)))
                getattr(request, options).SetInParent()
        if hasattr(request, "restore_original") and self._random.random() < 0.8:
            request.restore_original = False
        await self._call(name, request)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_a_worker_says_is_the_servers_fault(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: VirtualServer) -> None:
        anything = Anything(server, seed)
        for workflow_id in IDS:
            await anything.run(workflow_id)

    on_virtual_server(test, seed=seed)
    bugs = [record.getMessage() + (record.exc_text or "") for record in caplog.records if record.levelno >= logging.ERROR]
    assert not bugs, "\n".join(bugs)
