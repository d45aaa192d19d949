"""E4: updates, row by row of their table, and what happens to them when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.api.command.v1 import (
    Command,
    CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes,
)
from temporalio.api.common.v1 import Callback, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, SuggestContinueAsNewReason
from temporalio.api.errordetails.v1 import MultiOperationExecutionFailure
from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    ExecuteMultiOperationRequest,
    PauseWorkflowExecutionRequest,
    RespondWorkflowTaskFailedRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError, Code
from perdure.testing.faulty_store import StoreFaults
from tests.support.update_calls import (
    ACCEPTED,
    ADMITTED,
    COMPLETED,
    Outgoing,
    accept,
    complete,
    event_types,
    idle,
    next_task,
    poll_update,
    reject,
    respond,
    update,
    update_request,
)
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server, payloads

WRITTEN_TASK = ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED"]
ACCEPTANCE, COMPLETION = "WORKFLOW_EXECUTION_UPDATE_ACCEPTED", "WORKFLOW_EXECUTION_UPDATE_COMPLETED"

COMPLETE_WORKFLOW = Command(
    command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
    complete_workflow_execution_command_attributes=CompleteWorkflowExecutionCommandAttributes(),
)
CONTINUE_AS_NEW = Command(
    command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    continue_as_new_workflow_execution_command_attributes=ContinueAsNewWorkflowExecutionCommandAttributes(
        workflow_type=WorkflowType(name="Workflow"), task_queue=QUEUE
    ),
)


async def refusal(call: asyncio.Task[Any]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await call
    return raised.value


async def signal(server: VirtualServer) -> None:
    request = SignalWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=WORKFLOW_ID), signal_name="signal"
    )
    await server.call("SignalWorkflowExecution", request)


def refuse(message: Message) -> Outgoing:
    """A rejection with a place among the commands."""
    rejection = reject(message)
    command = accept(message)[1]
    command.protocol_message_command_attributes.message_id = rejection.id
    return rejection, command


# -- the table ------------------------------------------------------------------------------------------------
def test_accepted_and_completed_in_one_task() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        assert [(m.id, m.protocol_instance_id, m.event_id) for m in task.messages] == [("u/request", "u", task.started_event_id - 1)]
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        assert (await call).outcome.success == payloads('"done"')
        assert await event_types(server) == [*WRITTEN_TASK, ACCEPTANCE, COMPLETION]

    on_virtual_server(test)


def test_a_rejected_update_leaves_no_trace_and_can_come_again() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        for _ in range(2):
            call = update(server, "u")
            task = await next_task(server)
            response = await complete(server, task, messages=[reject(task.messages[0])])
            assert response.reset_history_event_id == 3
            assert (await call).outcome.failure.message == "no"
            assert await event_types(server) == []
            assert (await refusal(asyncio.create_task(poll_update(server, "u")))).message == 'update "u" not found'

    on_virtual_server(test)


def test_an_update_that_the_worker_does_not_mention_is_rejected() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await complete(server, await next_task(server))
        assert (await call).outcome.failure.application_failure_info.type == "UnprocessedUpdate"

    on_virtual_server(test)


def test_a_heartbeat_is_no_answer() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        message = task.messages[0]
        following = await complete(server, task, force_create_new_workflow_task=True, return_new_workflow_task=True)
        assert not following.workflow_task.messages
        await complete(server, following.workflow_task, accept(message), respond(message))
        assert (await call).stage == COMPLETED

    on_virtual_server(test)


def test_an_update_goes_with_the_next_task_when_its_task_failed() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        await server.call("RespondWorkflowTaskFailed", RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token))
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        assert (await call).stage == COMPLETED

    on_virtual_server(test)


def test_an_update_whose_answer_is_refused_is_not_tried_again() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        answered = await refusal(asyncio.create_task(complete(server, task, respond(task.messages[0]))))
        assert answered.message == (
            "BadUpdateWorkflowExecutionMessage: invalid state transition attempted for Update u: "
            "received *update.Response message while in state Sent"
        )
        assert (await refusal(call)).message == "Unable to perform workflow execution update due to unexpected workflow task failure."
        assert await event_types(server) == [*WRITTEN_TASK[:2], "WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]
        assert not (await next_task(server)).messages

    on_virtual_server(test)


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ((accept, accept), "Acceptance message while in state ProvisionallyAccepted"),
        ((accept, respond, respond), "Response message while in state ProvisionallyCompleted"),
        ((accept, respond, accept), "Acceptance message while in state ProvisionallyCompleted"),
        ((refuse, accept), "Acceptance message while in state ProvisionallyCompleted"),
        ((refuse, refuse), "Rejection message while in state ProvisionallyCompleted"),
    ],
)
def test_impossible_answers(answers: tuple[Callable[[Message], Outgoing], ...], state: str) -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        outgoing = [answer(task.messages[0]) for answer in answers]
        error = await refusal(asyncio.create_task(complete(server, task, *outgoing)))
        assert error.message.endswith(f"received *update.{state}")
        await refusal(call)

    on_virtual_server(test)


def test_callers_of_one_update_share_its_outcome() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        calls = [update(server, "u"), update(server, "u"), update(server, "u", ACCEPTED)]
        task = await next_task(server)
        assert len(task.messages) == 1
        await complete(server, task, accept(task.messages[0]))
        assert (await calls[2]).stage == ACCEPTED
        await signal(server)
        await complete(server, await next_task(server), respond(task.messages[0]))
        assert [(await call).stage for call in calls[:2]] == [COMPLETED, COMPLETED]
        assert (await update(server, "u")).outcome.success == payloads('"done"')

    on_virtual_server(test)


def test_a_lost_update_is_taken_from_the_answer() -> None:
    """The worker answers an update that memory has lost: its answer says what it was."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        call = update(server, "u")
        await server.pass_time(0.1)  # or the task is handed out before the update has come
        task = await next_task(server)
        await server.restart()
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        assert (await poll_update(server, "u")).outcome.success == payloads('"done"')
        call.cancel()

    on_virtual_server(test)


# -- closing ----------------------------------------------------------------------------------------------------
def test_an_accepted_update_fails_with_its_workflow() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), commands=[COMPLETE_WORKFLOW])
        assert (await call).outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
        await server.restart()
        assert (await poll_update(server, "u")).outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"

    on_virtual_server(test)


def test_an_update_that_was_not_accepted_ends_with_its_workflow() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        await complete(server, await next_task(server), commands=[COMPLETE_WORKFLOW])
        error = await refusal(call)
        assert (error.code, error.message) == (Code.NOT_FOUND, "workflow update was aborted by closing workflow")

    on_virtual_server(test)


@pytest.mark.parametrize("sent", [False, True])
def test_an_update_that_was_not_accepted_is_not_carried_over_to_the_next_run(sent: bool) -> None:
    """Its callers and pollers are told what clients try again by themselves."""

    async def test(server: VirtualServer) -> None:
        first = await server.start_workflow()
        task = await next_task(server)
        if sent:
            await complete(server, task)
        calls = [update(server, "u"), update(server, "v", ACCEPTED)]
        await server.pass_time(0.1)
        polls = [asyncio.create_task(poll_update(server, "u", stage)) for stage in (ACCEPTED, COMPLETED)]
        await server.pass_time(0.1)
        if sent:
            task = await next_task(server)
            assert len(task.messages) == 2
        await complete(server, task, commands=[CONTINUE_AS_NEW])
        for call in [*calls, *polls]:
            error = await refusal(call)
            assert error.code == Code.RESOURCE_EXHAUSTED
            assert error.message == "workflow operation can not be applied because workflow is closing"
        task = await next_task(server)
        assert task.workflow_execution.run_id != first
        assert not task.messages
        await complete(server, task)
        again = update(server, "u")
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        assert (await again).update_ref.workflow_execution.run_id == task.workflow_execution.run_id

    on_virtual_server(test)


def test_an_update_is_not_carried_over_to_the_retry_of_a_run_that_timed_out() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow(workflow_run_timeout=to_duration(SECOND), retry_policy=RetryPolicy(maximum_attempts=2))
        error = await refusal(update(server, "u"))
        assert error.message == "workflow operation can not be applied because workflow is closing"

    on_virtual_server(test)


# -- waiting --------------------------------------------------------------------------------------------------
def test_a_caller_is_told_the_stage_when_its_time_is_over() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        began = server.clock.now()
        assert (await update(server, "u")).stage == ADMITTED
        assert round((server.clock.now() - began) / 1e9) == 20
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]))
        assert (await poll_update(server, "u")).stage == ACCEPTED
        assert (await poll_update(server, "u", 0)).stage == ACCEPTED

    on_virtual_server(test)


def test_an_accepted_update_survives_a_restart() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u", ACCEPTED)
        task = await next_task(server)
        message = task.messages[0]
        await complete(server, task, accept(message))
        assert (await call).stage == ACCEPTED
        await server.restart()
        waiting = asyncio.create_task(poll_update(server, "u"))
        again = update(server, "u")
        await signal(server)
        task = await next_task(server)
        assert not task.messages
        await complete(server, task, respond(message))
        assert (await waiting).outcome.success == (await again).outcome.success == payloads('"done"')
        await server.restart()
        assert (await update(server, "u")).outcome.success == payloads('"done"')

    on_virtual_server(test)


def test_nobody_is_told_of_an_acceptance_that_did_not_become_durable() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        call = update(server, "u")
        task = await next_task(server)
        server.store.faults = StoreFaults(commit_fails=1.0)
        error = await refusal(asyncio.create_task(complete(server, task, accept(task.messages[0]), respond(task.messages[0]))))
        assert error.code == Code.UNAVAILABLE
        assert not call.done()
        server.store.faults = StoreFaults()
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0], '"second"'))
        assert (await call).outcome.success == payloads('"second"')

    on_virtual_server(test)


# -- limits -----------------------------------------------------------------------------------------------------
def test_updates_in_flight_are_limited() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        calls = [update(server, f"u{n}") for n in range(3)]
        error = await refusal(calls[2])
        assert (error.code, error.message) == (
            Code.RESOURCE_EXHAUSTED,
            "limit on number of concurrent in-flight updates has been reached (2)",
        )
        task = await next_task(server)
        await complete(server, task, messages=[reject(message) for message in task.messages])
        assert [(await call).stage for call in calls[:2]] == [COMPLETED] * 2

    on_virtual_server(test, dynamic_config={"history.maxInFlightUpdates": 2})


def test_updates_of_a_run_are_limited_and_it_is_told_in_time() -> None:
    async def test(server: VirtualServer) -> None:
        await idle(server)
        taken = Message()
        for n in range(4):
            call = update(server, f"u{n}")
            task = await next_task(server)
            too_many = SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES
            started = task.history.events[-1].workflow_task_started_event_attributes
            assert (too_many in started.suggest_continue_as_new_reasons) == (n >= 2)
            await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
            await call
            taken = task.messages[0]
        error = await refusal(update(server, "one more"))
        assert error.code == Code.FAILED_PRECONDITION
        assert error.message.startswith("The limit on the total number of distinct updates in this workflow has been reached (4). Make")
        assert (await update(server, "u0")).stage == COMPLETED
        # Nor does a worker bring in one more by accepting what nobody has asked for.
        taken.protocol_instance_id = "one more"
        await signal(server)
        task = await next_task(server)
        again = await refusal(asyncio.create_task(complete(server, task, accept(taken))))
        assert (again.code, again.message) == (error.code, error.message)
        await complete(server, task)

    config = {"history.maxTotalUpdates": 4, "history.maxTotalUpdates.suggestContinueAsNewThreshold": 0.75}
    on_virtual_server(test, dynamic_config=config)


# -- callbacks ------------------------------------------------------------------------------------------------
def test_completion_callbacks_are_kept() -> None:
    """The first caller's with the acceptance, a later one's as an update of the options; once per request id."""

    async def test(server: VirtualServer) -> None:
        def callback(name: str) -> dict[str, object]:
            return {"request_id": name, "completion_callbacks": [Callback(nexus=Callback.Nexus(url=f"http://{name}/"))]}

        await idle(server)
        calls = [update(server, "u", ACCEPTED, **callback("first"))]
        task = await next_task(server)
        calls.append(update(server, "u", ACCEPTED, **callback("second")))
        await server.pass_time(0.1)
        await complete(server, task, accept(task.messages[0]))
        calls += [update(server, "u", ACCEPTED, **callback(name)) for name in ("third", "third", "first")]
        for call in calls:
            await call
        describe = DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id=WORKFLOW_ID))
        for _ in range(2):
            described = await server.call("DescribeWorkflowExecution", describe)
            ids = described.workflow_extended_info.request_id_infos
            assert {n: (ids[n].event_type, ids[n].buffered) for n in ("first", "second", "third")} == {
                "first": (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED, False),
                "second": (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED, False),
                "third": (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED, False),
            }
            history = {event.event_id: event for event in await server.history()}
            assert all(history[ids[n].event_id].event_type == ids[n].event_type for n in ("first", "second", "third"))
            infos = described.callbacks
            assert [(info.request_id, info.callback.nexus.url) for info in infos] == [
                (n, f"http://{n}/") for n in ("first", "second", "third")
            ]
            assert {info.trigger.update_workflow_execution_completed.update_id for info in infos} == {"u"}
            await server.restart()

    on_virtual_server(test)


# -- update with start -------------------------------------------------------------------------------------------
def test_neither_happens_when_the_update_of_an_update_with_start_is_refused() -> None:
    async def test(server: VirtualServer) -> None:
        error = await refusal(asyncio.create_task(server.call("ExecuteMultiOperation", update_with_start())))
        assert error.code == Code.RESOURCE_EXHAUSTED
        assert isinstance(error.detail, MultiOperationExecutionFailure)
        assert [status.code for status in error.detail.statuses] == [Code.ABORTED, Code.RESOURCE_EXHAUSTED]
        describe = DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id=WORKFLOW_ID))
        assert (await refusal(asyncio.create_task(server.call("DescribeWorkflowExecution", describe)))).code == Code.NOT_FOUND

    on_virtual_server(test, dynamic_config={"history.maxInFlightUpdatePayloads": 1})


def test_update_with_start_survives_a_commit_that_fails() -> None:
    """The run is begun; only the acceptance is lost, and the update is delivered again to that run, whatever the conflict policy."""

    async def test(server: VirtualServer) -> None:
        call = asyncio.create_task(server.call("ExecuteMultiOperation", update_with_start(), 60))
        task = await next_task(server)
        await server.pass_time(0.1)  # the call waits for the outcome now, and not for a commit
        server.store.faults = StoreFaults(commit_fails=1.0)
        await refusal(asyncio.create_task(complete(server, task, accept(task.messages[0]), respond(task.messages[0]))))
        server.store.faults = StoreFaults()
        await asyncio.wait([call], timeout=15)
        task = await next_task(server)
        await complete(server, task, accept(task.messages[0]), respond(task.messages[0]))
        started, updated = (await call).responses
        assert started.start_workflow.started
        assert started.start_workflow.run_id == updated.update_workflow.update_ref.workflow_execution.run_id
        assert updated.update_workflow.outcome.success == payloads('"done"')

    on_virtual_server(test)


def test_a_start_that_happened_is_not_reported_aborted_with_its_update() -> None:
    """The update is lost with a commit, and the run does not take it a second time."""

    async def test(server: VirtualServer) -> None:
        call = asyncio.create_task(server.call("ExecuteMultiOperation", update_with_start(), 60))
        task = await next_task(server)
        await server.call("PauseWorkflowExecution", PauseWorkflowExecutionRequest(namespace="default", workflow_id=WORKFLOW_ID))
        server.store.faults = StoreFaults(commit_fails=1.0)
        await refusal(asyncio.create_task(complete(server, task, accept(task.messages[0]), respond(task.messages[0]))))
        server.store.faults = StoreFaults()
        error = await refusal(call)
        assert isinstance(error.detail, MultiOperationExecutionFailure)
        assert [status.code for status in error.detail.statuses] == [0, Code.FAILED_PRECONDITION]

    on_virtual_server(test)


def update_with_start() -> ExecuteMultiOperationRequest:
    start = StartWorkflowExecutionRequest(
        namespace="default", workflow_id=WORKFLOW_ID, workflow_type=WorkflowType(name="Workflow"), task_queue=QUEUE
    )
    operations = [
        ExecuteMultiOperationRequest.Operation(start_workflow=start),
        ExecuteMultiOperationRequest.Operation(update_workflow=update_request("u")),
    ]
    return ExecuteMultiOperationRequest(namespace="default", operations=operations)
