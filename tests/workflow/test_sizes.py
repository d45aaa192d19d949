"""A run that becomes too big ends: by what it remembers, or by what one answer of its worker writes. Each limit on both sides."""

from __future__ import annotations

import json

import pytest
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import CommandType

from perdure.core.errors import ApiError, Code
from tests.support.activity_calls import complete as complete_activity
from tests.support.activity_calls import fail, failure, heartbeat, schedule, seconds
from tests.support.task_calls import Command, complete, marker, poll, signal, types
from tests.support.virtual_server import VirtualServer, on_virtual_server, payloads

TOO_BIG = "Workflow mutable state size exceeds limit."


async def end(server: VirtualServer) -> tuple[str, str]:
    """Why and by whom the run was terminated; empty while it runs."""
    attributes = (await server.history())[-1].workflow_execution_terminated_event_attributes
    return attributes.reason, attributes.identity


def test_what_heartbeats_leave_behind_may_become_too_much() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        # Inputs stay in history: they do not count.
        await server.decide(*(schedule(str(number), input=payloads("i" * 50_000)) for number in range(3)))
        first, second, third = [await server.activity_task() for _ in range(3)]
        await heartbeat(server, first, payloads("x" * 60_000))
        await heartbeat(server, first, payloads("y" * 60_000))
        await complete_activity(server, first)
        await server.decide()
        await heartbeat(server, second, payloads("x" * 60_000))
        await heartbeat(server, third, payloads("x" * 39_000))
        assert await end(server) == ("", "")
        with pytest.raises(ApiError, match=TOO_BIG) as refused:
            await heartbeat(server, third, payloads("x" * 40_000))
        assert refused.value.code == Code.INVALID_ARGUMENT
        assert await end(server) == (TOO_BIG, "history-service")

    on_virtual_server(test, dynamic_config={"limit.mutableStateSize.error": 100_000})


def test_the_failures_of_attempts_count_while_they_are_remembered() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        policy = RetryPolicy(initial_interval=seconds(1))
        await server.decide(*(schedule(str(number), retry_policy=policy) for number in range(3)))
        for _ in range(2):
            await fail(server, await server.activity_task(), failure("f" * 3_500))
            assert await end(server) == ("", "")
        with pytest.raises(ApiError, match=TOO_BIG):
            await fail(server, await server.activity_task(), failure("f" * 3_500))
        assert (await end(server))[0] == TOO_BIG

    on_virtual_server(test, dynamic_config={"limit.mutableStateSize.error": 10_000})


@pytest.mark.parametrize("fits", [True, False])
def test_an_answer_that_writes_too_much_ends_the_run(fits: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        await signal(server, name="s" * 500)
        written = [marker("m" * 600), marker("m" * (600 if fits else 900))]
        if fits:
            await complete(server, task, *written)
            assert (await types(server))[3:6] == ["WORKFLOW_TASK_COMPLETED", "MARKER_RECORDED", "MARKER_RECORDED"]
            return
        with pytest.raises(ApiError) as refused:
            await complete(server, task, *written)
        assert refused.value.code == Code.INVALID_ARGUMENT
        assert refused.value.message.startswith("transaction size of ")
        assert refused.value.message.endswith(" bytes exceeds limit of 2000 bytes")
        assert (await types(server))[3:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_EXECUTION_TERMINATED"]
        assert await end(server) == ("Transaction size exceeds limit.", "history-service")
        details = (await server.history())[-1].workflow_execution_terminated_event_attributes.details
        assert json.loads(details.payloads[0].data) == refused.value.message

    on_virtual_server(test, dynamic_config={"system.transactionSizeLimit": 2_000})


@pytest.mark.parametrize("fits", [True, False])
def test_a_run_that_follows_counts_too(fits: bool) -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow(retry_policy=RetryPolicy(initial_interval=seconds(1)), input=payloads("i" * 1_000))
        task = await poll(server)
        command = Command(command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
        command.fail_workflow_execution_command_attributes.failure.CopyFrom(failure("f" * (300 if fits else 700)))
        if fits:
            await complete(server, task, command)
            assert (await server.state()).run_id != run_id
            return
        with pytest.raises(ApiError, match="exceeds limit of 2000 bytes"):
            await complete(server, task, command)
        assert (await server.state()).run_id == run_id
        assert (await end(server))[0] == "Transaction size exceeds limit."

    on_virtual_server(test, dynamic_config={"system.transactionSizeLimit": 2_000})
