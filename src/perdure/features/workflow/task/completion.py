"""A worker answers a workflow task: its commands become events, all of them or none."""

from __future__ import annotations

import json
from typing import NoReturn

from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import CommandType, WorkerVersioningMode, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ServerFailureInfo
from temporalio.api.history.v1 import WorkflowTaskCompletedEventAttributes
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from perdure.core.clock import duration_ns
from perdure.core.errors import ApiError, failed_precondition, invalid_argument, not_found
from perdure.core.limits import LONGEST_DURATION
from perdure.engine.partition import Refused
from perdure.engine.transaction import Transaction
from perdure.features.workflow import notes
from perdure.features.workflow.commands import CommandRefused, Completion
from perdure.features.workflow.registry import COMMANDS
from perdure.features.workflow.run.builds import forget_old_reset_points
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.state import Status
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.completion_pages import TaskId, all_commands, keep_page, task_id
from perdure.features.workflow.task.lifecycle import fail_task, schedule_task, start_task, write_task_events
from perdure.features.workflow.task.metrics import COMPLETED, count_failure
from perdure.features.workflow.task.problems import handle_problem
from perdure.features.workflow.task.queries import answer_queries
from perdure.features.workflow.task.speculative import can_be_discarded, schedule_speculative_task
from perdure.features.workflow.task.timeouts import time_out
from perdure.features.workflow.task.worker_versions import answering_stamp
from perdure.features.workflow.update.lifecycle import fail_sent
from perdure.features.workflow.update.messages import outgoing, take_rest

C = CommandType
Cause = WorkflowTaskFailedCause

CLOSE_COMMANDS = frozenset(
    {
        C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    }
)

INLINE_REQUEST_ID = "request-from-RespondWorkflowTaskCompleted"


def complete_task(step: WorkflowStep, transaction: Transaction, request: RespondWorkflowTaskCompletedRequest) -> Completion | ApiError:
    """End the started task and carry out its commands. The caller has checked the task token.

    Returns an error that the worker is told after all is recorded: it has kept the task for too long.
    Raises ApiError for a sequence of commands that no SDK sends (nothing is recorded, the task stays with the worker), and
    Refused for a command that fails the task.
    """
    _check_request(step, request)
    overflows = request.intermediate_page and not keep_page(step, request)
    if request.intermediate_page and not overflows:
        return Completion(transaction, request, 0)
    commands = [] if overflows else list(all_commands(step, request))
    check_sequence(commands)
    original_scheduled_at = step.task.original_scheduled_at
    is_heartbeat = request.force_create_new_workflow_task and not commands and not request.messages
    if is_heartbeat and step.now > original_scheduled_at + step.limits.workflow_task_heartbeat_timeout_ns:
        return _end_heartbeat(step, request)
    answered = task_id(step.task)
    completion = Completion(transaction, request, 0, list(request.messages), can_be_discarded(step, request, commanded=bool(commands)))
    if completion.discarded:
        step.set_speculative(None)
    else:
        completion.completed_event_id = _record_completed(step, request)
    _set_sticky(step, request)
    step.holds_task = True
    try:
        if overflows:
            raise CommandRefused(
                Cause.WORKFLOW_TASK_FAILED_CAUSE_REQUEST_TOO_LARGE,
                "workflow task completion buffer size exceeds the per-workflow limit",
                terminate=True,
            )
        if request.binary_checksum in step.namespace.bad_binaries:
            raise CommandRefused(
                Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY, f"binary {request.binary_checksum} is marked as bad deployment"
            )
        for command in commands:
            if command.command_type in CLOSE_COMMANDS:
                if step.state.buffer:  # but for the firing of a timer that these commands have canceled
                    raise CommandRefused(Cause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND)
                step.hold_back()  # what these commands have caused: history ends with the close
            COMMANDS[command.command_type](step, command, completion)
        take_rest(step, completion)
    except CommandRefused as refused:
        _refuse(refused, request, answered)
    step.holds_task = False
    if step.state.is_open:
        _schedule_next(step, completion, original_scheduled_at if is_heartbeat else 0)
    _check_size(step, transaction, answered)
    answer_queries(step, transaction, request.query_results)
    return completion


def _check_size(step: WorkflowStep, transaction: Transaction, answered: TaskId) -> None:
    """What the completion writes must not be too big, neither for its own run nor for one that follows. Raises Refused."""
    limit = step.limits.transaction_size_bytes
    # At the end of the step they get their ids, unless a task runs again.
    waiting = 0 if step.task.is_started or not step.state.is_open else sum(event.ByteSize() for event in step.waiting_events)
    size = max(waiting + step.events_size, *(each.events_size for each in transaction.steps.values()))
    if size <= limit:
        return
    message = f"transaction size of {size} bytes exceeds limit of {limit} bytes"
    details = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(message).encode())])

    def instead(transaction: Transaction) -> ApiError:
        terminate(_step_again(transaction, answered), "Transaction size exceeds limit.", SERVER_IDENTITY, details)
        return invalid_argument(message)

    raise Refused(instead)


def _check_request(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> None:
    if step.state.status == Status.PAUSED and request.force_create_new_workflow_task:
        raise failed_precondition("Workflow is paused and force create new workflow task is not allowed.")
    is_versioned = request.deployment_options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    if request.versioning_behavior and not request.HasField("deployment") and not is_versioned:
        raise invalid_argument("versioning behavior cannot be specified without deployment options being set with versioned mode")


def _end_heartbeat(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> ApiError:
    """The worker has kept its task alive for too long without any progress: another worker shall try."""
    write_task_events(step, request.identity)
    time_out(step, started=True)
    return not_found("workflow task heartbeat timeout")


def _record_completed(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> int:
    if not step.task.is_written:
        write_task_events(step, request.identity, answering_stamp(request))
    task = step.task
    options = request.deployment_options
    is_versioned = options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    attributes = WorkflowTaskCompletedEventAttributes(
        scheduled_event_id=task.scheduled_event_id, started_event_id=task.started_event_id, identity=request.identity,
        binary_checksum=request.binary_checksum,
        worker_version=request.worker_version_stamp if request.HasField("worker_version_stamp") else None,
        sdk_metadata=request.sdk_metadata if request.HasField("sdk_metadata") else None,
        metering_metadata=request.metering_metadata if request.HasField("metering_metadata") else None,
        worker_deployment_name=options.deployment_name or request.deployment.series_name,
    )  # fmt: skip
    if is_versioned or not request.HasField("deployment_options"):
        attributes.versioning_behavior = request.versioning_behavior
    name, build_id = (
        (options.deployment_name, options.build_id) if is_versioned else (request.deployment.series_name, request.deployment.build_id)
    )
    if name and build_id:
        attributes.deployment_version.deployment_name = name
        attributes.deployment_version.build_id = build_id
    completed_event_id = step.event(attributes).event_id
    forget_old_reset_points(step)
    return completed_event_id


def _schedule_next(step: WorkflowStep, completion: Completion, original_scheduled_at: int) -> None:
    """Schedule the next task if there is anything to do, and start it at once if the worker asks for it."""
    request = completion.request
    if request.force_create_new_workflow_task:
        schedule_task(step, original_scheduled_at=original_scheduled_at)
    elif step.has_waiting_events or step.wants_task:
        schedule_task(step)
    elif step.volatile.updates:
        # Updates arrived while the task ran. A task that is in memory only can be handed over here, but should not wait in a queue.
        if request.return_new_workflow_task:
            schedule_speculative_task(step)
        else:
            schedule_task(step)
    if request.return_new_workflow_task and step.task.is_scheduled:
        start_task(step, request.identity, INLINE_REQUEST_ID, answering_stamp(request))
        completion.started_next = True
        completion.outgoing = outgoing(step, include_sent=not request.force_create_new_workflow_task)


def check_sequence(commands: object) -> None:
    """A closing command must be the last one, and every command must be known."""
    sequence: list[Command] = list(commands)  # pyright: ignore
    for command in sequence:
        if command.command_type not in COMMANDS:
            raise invalid_argument(f"unknown command type: {_command_name(command.command_type)}")
    for command in sequence[:-1]:
        if command.command_type in CLOSE_COMMANDS:
            names = ", ".join(_command_name(c.command_type) for c in sequence)
            raise invalid_argument(
                f"invalid command sequence: [{names}], command {_command_name(command.command_type)} must be the last command."
            )


def _command_name(command_type: int) -> str:
    """The official server's spelling: CompleteWorkflowExecution."""
    if command_type not in C.values():
        return str(command_type)
    words = C.Name(command_type).removeprefix("COMMAND_TYPE_").split("_")  # pyright: ignore
    return "".join(word.capitalize() for word in words)


def _set_sticky(step: WorkflowStep, request: RespondWorkflowTaskCompletedRequest) -> None:
    attributes = request.sticky_attributes
    queue = attributes.worker_task_queue.name
    timeout = max(-LONGEST_DURATION, min(duration_ns(attributes.schedule_to_start_timeout), LONGEST_DURATION))
    if (queue, timeout if queue else 0) != (step.state.sticky_queue, step.state.sticky_timeout):
        step.note(notes.StickyChanged(queue, timeout if queue else 0))


def _step_again(transaction: Transaction, answered: TaskId) -> WorkflowStep:
    """The step of the run after its completion was undone. Raises ApiError NOT_FOUND."""
    assert transaction.run is not None
    step = transaction.step(transaction.run)
    assert isinstance(step, WorkflowStep)
    if not step.state.is_open or not step.task.is_started or task_id(step.task) != answered:
        # Undoing took time, or brought back less than there was: the task is not there any more.
        raise not_found("Workflow task not found.")
    return step


def _refuse(refused: CommandRefused, request: RespondWorkflowTaskCompletedRequest, answered: TaskId) -> NoReturn:
    """Undo the commands, record the failure instead, and tell the worker.

    From the second attempt on nothing is recorded: the task stays with the worker until it times out, which slows the retries down.
    """

    def instead(transaction: Transaction) -> ApiError:
        step = _step_again(transaction, answered)
        fail_sent(step)
        if answered[1] > 1 and refused.cause != Cause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
            return invalid_argument(refused.message)
        failure = Failure(message=refused.message, server_failure_info=ServerFailureInfo())
        fail_task(step, refused.cause, failure, request.identity, binary_checksum=request.binary_checksum)
        count_failure(step, COMPLETED, refused.cause)
        if refused.terminate:
            terminate(step, refused.message, SERVER_IDENTITY)
        else:
            handle_problem(step)
            schedule_task(step)
        return invalid_argument(refused.message)

    raise Refused(instead)
