"""E7: the runs of a cron schedule go on, and on time, whatever happens to one of them."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.enums.v1 import RetryState

from perdure.core.clock import HOUR, MINUTE, timestamp_ns
from tests.support.reset_calls import describe, history, reset
from tests.support.task_calls import Task, complete, complete_workflow, elapse, fail, poll
from tests.support.virtual_server import VirtualServer, on_virtual_server


async def next_task(server: VirtualServer) -> Task:
    """The next workflow task, within two hours."""
    for _ in range(120):
        task = await poll(server)
        if task.task_token:
            return task
    raise AssertionError("no workflow task")


@pytest.mark.parametrize("has_policy", [False, True])
def test_the_run_after_a_poisoned_one_comes_on_time(has_policy: bool) -> None:
    async def test(server: VirtualServer) -> None:
        more: dict[str, Any] = {"retry_policy": {"maximum_attempts": 5}} if has_policy else {}
        run_id = await server.start_workflow(cron_schedule="0 * * * *", **more)
        await fail(server, await next_task(server))
        closed = (await history(server, run_id))[-1].workflow_execution_failed_event_attributes
        assert closed.failure.application_failure_info.type == "PoisonedWorkflowTask"
        retry_state = RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE if has_policy else RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
        assert closed.retry_state == retry_state
        task = await next_task(server)
        assert task.workflow_execution.run_id == closed.new_execution_run_id
        assert server.clock.now() % HOUR < MINUTE
        started = task.history.events[0].workflow_execution_started_event_attributes
        assert (started.attempt, started.continued_failure.application_failure_info.type) == (1, "PoisonedWorkflowTask")

    on_virtual_server(test, poison_policy='{"action": "fail", "after": 1}')


@pytest.mark.parametrize("schedule", ["0 * * * *", "@every 1h"])
def test_the_run_after_a_reset_one_comes_on_time(schedule: str) -> None:
    """The run is reset twenty minutes after its time; that moves neither its own clock nor its schedule."""

    async def test(server: VirtualServer) -> None:
        await server.start_workflow(cron_schedule=schedule)
        task = await next_task(server)
        due = server.clock.now()
        await complete(server, task)
        await elapse(server, 20 * 60)
        await reset(server, 4)
        info = (await describe(server)).workflow_execution_info
        assert timestamp_ns(info.execution_time) <= server.clock.now()
        await complete(server, await poll(server), complete_workflow())
        await next_task(server)
        assert (server.clock.now() - due) // MINUTE == 60

    on_virtual_server(test)
