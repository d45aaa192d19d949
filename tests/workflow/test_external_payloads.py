"""Payloads that workers keep elsewhere: a run says how many its history refers to, and how many bytes they have."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command, RecordMarkerCommandAttributes
from temporalio.api.common.v1 import Header, Payload, Payloads, RetryPolicy, SearchAttributes
from temporalio.api.enums.v1 import CommandType
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest, SignalWorkflowExecutionRequest

from tests.support.activity_calls import complete, fail, failure, schedule, seconds
from tests.support.reset_calls import describe, reset
from tests.support.task_calls import EXECUTION, complete_workflow, poll, terminate
from tests.support.task_calls import complete as complete_task
from tests.support.virtual_server import VirtualServer, on_virtual_server


def elsewhere(*sizes: int) -> Payload:
    """A payload that is kept elsewhere, in so many parts."""
    references = [Payload.ExternalPayloadDetails(size_bytes=size) for size in sizes]
    return Payload(metadata={"encoding": b"json/plain"}, data=b'"key"', external_payloads=references)


def all_elsewhere(*sizes: int) -> Payloads:
    return Payloads(payloads=[elsewhere(size) for size in sizes])


async def listed(server: VirtualServer, query: str) -> list[dict[str, bytes]]:
    """The search attributes of the runs that a query finds."""
    response = await server.call("ListWorkflowExecutions", ListWorkflowExecutionsRequest(namespace="default", query=query))
    return [{name: value.data for name, value in run.search_attributes.indexed_fields.items()} for run in response.executions]


async def counted(server: VirtualServer, run_id: str = "") -> tuple[int, int]:
    """How many payloads the run refers to, and their bytes."""
    info = (await describe(server, run_id=run_id)).workflow_execution_info
    return info.external_payload_count, info.external_payload_size_bytes


def test_whatever_part_of_an_event_refers_to_them_counts() -> None:
    async def test(server: VirtualServer) -> None:
        # References are messages that are hard to tell from others: this policy looks like one.
        policy = RetryPolicy(initial_interval=seconds(1), maximum_interval=seconds(5), maximum_attempts=1)
        version = Payload(metadata={"encoding": b"json/plain"}, data=b'["v"]', external_payloads=elsewhere(500_000).external_payloads)
        await server.start_workflow(
            input=all_elsewhere(1_000, 200), header=Header(fields={"h": elsewhere(30), "plain": Payload(data=b"d")}),
            user_metadata=UserMetadata(summary=elsewhere(4)),
            search_attributes=SearchAttributes(indexed_fields={"TemporalChangeVersion": version}),
        )  # fmt: skip
        assert await counted(server) == (4, 1_234)
        attributes = RecordMarkerCommandAttributes(marker_name="m", details={"d": all_elsewhere(10_000)})
        marker = Command(command_type=CommandType.COMMAND_TYPE_RECORD_MARKER, record_marker_command_attributes=attributes)
        await server.decide(
            marker, schedule(retry_policy=policy), schedule("b", input=all_elsewhere(6), header=Header(fields={"h": elsewhere(5)}))
        )
        assert await counted(server) == (7, 11_245)
        why = failure("deep")
        why.cause.CopyFrom(failure("deeper", details=Payloads(payloads=[elsewhere(0, 100_000)])))
        await fail(server, await server.activity_task(), why)
        assert await counted(server) == (9, 111_245)
        await server.restart()
        assert await counted(server) == (9, 111_245)

    on_virtual_server(test)


def test_sizes_that_nothing_can_have_do_no_harm() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow(input=all_elsewhere(-5, 7))
        assert await counted(server) == (2, 7)
        await server.start_workflow("other", input=all_elsewhere(2**63 - 1, 2**63 - 1))
        info = (await describe(server, "other")).workflow_execution_info
        assert (info.external_payload_count, info.external_payload_size_bytes) == (2, 2**63 - 1)

    on_virtual_server(test)


def test_what_waits_for_its_place_in_history_does_not_count_yet() -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow()
        task = await poll(server)
        signal: dict[str, Any] = {"namespace": "default", "workflow_execution": EXECUTION, "signal_name": "s"}
        await server.call("SignalWorkflowExecution", SignalWorkflowExecutionRequest(**signal, input=all_elsewhere(5)))
        assert await counted(server) == (0, 0)
        await complete_task(server, task)
        assert await counted(server) == (1, 5)

    on_virtual_server(test)


def test_a_reset_run_counts_what_its_own_history_refers_to() -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow(input=all_elsewhere(1_024))
        await server.decide(schedule(input=all_elsewhere(2_048)))
        await complete(server, await server.activity_task())
        await server.decide(complete_workflow())
        assert await counted(server) == (2, 3_072)
        await reset(server, 4)
        assert await counted(server) == (1, 1_024)
        assert await counted(server, run_id) == (2, 3_072)

    on_virtual_server(test)


@pytest.mark.parametrize("has_others", [True, False], ids=["beside others", "alone"])
def test_a_closed_run_is_listed_with_them(has_others: bool) -> None:
    async def test(server: VirtualServer) -> None:
        await server.start_workflow(input=all_elsewhere(1_024))
        (found,) = await listed(server, "WorkflowId = 'workflow'")
        assert "TemporalExternalPayloadCount" not in found
        await (server.decide(complete_workflow()) if has_others else terminate(server))
        (found,) = await listed(server, "WorkflowId = 'workflow'")
        assert (found["TemporalExternalPayloadCount"], found["TemporalExternalPayloadSizeBytes"]) == (b"1", b"1024")
        assert ("BuildIds" in found) == has_others
        await server.start_workflow("other")
        await server.decide(complete_workflow())
        (found,) = await listed(server, "WorkflowId = 'other'")
        assert "TemporalExternalPayloadCount" not in found, "it refers to nothing"

    on_virtual_server(test)
