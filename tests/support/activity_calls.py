"""Commands and calls about activities, for tests that are their own worker and operator."""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import Command, RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import CommandType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer

EXECUTION = WorkflowExecution(workflow_id=WORKFLOW_ID)


def seconds(number: float) -> Any:
    return to_duration(int(number * SECOND))


def schedule(activity_id: str = "a", **attributes: Any) -> Command:
    """Schedule an activity; half a minute from start to close, if nothing else is said."""
    defaults: dict[str, Any] = {"start_to_close_timeout": seconds(30), "task_queue": QUEUE}
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=ScheduleActivityTaskCommandAttributes(
            activity_id=activity_id, activity_type=ActivityType(name="Activity"), **{**defaults, **attributes}
        ),
    )


def request_cancel(scheduled_event_id: int) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
        request_cancel_activity_task_command_attributes=RequestCancelActivityTaskCommandAttributes(scheduled_event_id=scheduled_event_id),
    )


def complete_workflow() -> Command:
    return Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, complete_workflow_execution_command_attributes={})  # type: ignore[arg-type]  # pyright: ignore


def failure(message: str = "no", **info: Any) -> Failure:
    return Failure(message=message, application_failure_info=ApplicationFailureInfo(**info))


async def heartbeat(
    server: VirtualServer, task: service.PollActivityTaskQueueResponse, details: Payloads | None = None
) -> service.RecordActivityTaskHeartbeatResponse:
    request = service.RecordActivityTaskHeartbeatRequest(namespace="default", task_token=task.task_token, details=details)
    return await server.call("RecordActivityTaskHeartbeat", request)


async def complete(server: VirtualServer, task: service.PollActivityTaskQueueResponse, result: Payloads | None = None) -> None:
    request = service.RespondActivityTaskCompletedRequest(namespace="default", task_token=task.task_token, result=result, identity="worker")
    await server.call("RespondActivityTaskCompleted", request)


async def fail(server: VirtualServer, task: service.PollActivityTaskQueueResponse, why: Failure | None = None, **more: Any) -> Any:
    request = service.RespondActivityTaskFailedRequest(
        namespace="default", task_token=task.task_token, failure=why if why is not None else failure(), identity="worker", **more
    )
    return await server.call("RespondActivityTaskFailed", request)


async def cancel(server: VirtualServer, task: service.PollActivityTaskQueueResponse) -> None:
    request = service.RespondActivityTaskCanceledRequest(namespace="default", task_token=task.task_token, identity="worker")
    await server.call("RespondActivityTaskCanceled", request)


async def signal(server: VirtualServer) -> None:
    """Have the workflow look again."""
    request = service.SignalWorkflowExecutionRequest(namespace="default", workflow_execution=EXECUTION, signal_name="look")
    await server.call("SignalWorkflowExecution", request)


async def control(server: VirtualServer, method: str, activity_id: str = "a", **fields: Any) -> Any:
    """Call an operator's RPC on one activity."""
    request_type = getattr(service, f"{method}Request")
    return await server.call(method, request_type(namespace="default", execution=EXECUTION, id=activity_id, **fields))


async def refusal(call: Any) -> str:
    """The message with which a call is refused."""
    try:
        await call
    except ApiError as error:
        return error.message
    raise AssertionError("the call was not refused")
