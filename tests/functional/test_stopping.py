"""A server that stops leaves nobody waiting: every call that waits is answered at once, with what the official server says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta, Request
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest,
    QueryWorkflowRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.app import Server
from perdure.core.clock import HOUR
from perdure.settings import ServerSettings
from tests.rpc.http2 import GOAWAY, RawHttp2
from tests.support.waiting import until

QUEUE = TaskQueue(name="stopping")
RUN = WorkflowExecution(workflow_id="stopping")


async def outcome(call: Awaitable[Any]) -> Any:
    """The answer, or the error."""
    try:
        return await call
    except RPCError as error:
        return error


async def test_waiting_calls_are_answered_when_the_server_stops() -> None:
    # So long a drain that the test would not live to see its end.
    server = Server(ServerSettings(grpc_port=0, metrics_port=None, database="", drain_timeout=HOUR))
    async with server:
        client = await Client.connect(server.grpc_address)
        service = client.workflow_service
        await service.start_workflow_execution(
            StartWorkflowExecutionRequest(
                namespace="default", workflow_id=RUN.workflow_id, workflow_type=WorkflowType(name="Any"), task_queue=QUEUE, request_id="1"
            )
        )
        page = await service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(namespace="default", execution=RUN, wait_new_event=True)
        )
        history = GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=RUN, wait_new_event=True, next_page_token=page.next_page_token
        )
        close = GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=RUN, wait_new_event=True,
            history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
        )  # fmt: skip
        update = UpdateWorkflowExecutionRequest(
            namespace="default", workflow_execution=RUN, request=Request(meta=Meta(update_id="u"), input=Input(name="update"))
        )
        query = QueryWorkflowRequest(namespace="default", execution=RUN, query=WorkflowQuery(query_type="state"))
        poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="other"), identity="worker")
        calls = [
            asyncio.create_task(outcome(call))
            for call in (
                service.get_workflow_execution_history(history),
                service.get_workflow_execution_history(close),
                service.update_workflow_execution(update),
                service.query_workflow(query),
                service.poll_workflow_task_queue(poll),
            )
        ]

        async def all_waiting() -> bool:
            # Two long polls of the history, an update and a query.
            return len(server.core.engine.waits) == 4

        await until(all_waiting)
        stopped = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.wait_for(stopped, 20)
        next_page, closed, updated, queried, polled = await asyncio.gather(*calls)
    assert next_page.next_page_token
    assert not next_page.history.events
    assert closed.next_page_token
    assert not closed.history.events
    assert isinstance(updated, RPCError)
    assert (updated.status, updated.message) == (RPCStatusCode.UNAVAILABLE, "workflow update was aborted")
    assert isinstance(queried, RPCError)
    assert (queried.status, queried.message) == (RPCStatusCode.UNAVAILABLE, "buffered query cleared, please retry")
    assert not polled.task_token


async def test_probes_are_answered_until_the_drain_is_over() -> None:
    server = Server(ServerSettings(grpc_port=0, metrics_port=0, database="", drain_timeout=HOUR))
    async with server, httpx.AsyncClient(base_url=f"http://{server.metrics_address}", trust_env=False) as probe:
        assert (await probe.get("/readyz")).json() == {"status": "SERVING"}
        async with RawHttp2(int(server.grpc_address.rpartition(":")[2])) as connection:
            # Half a call: the drain waits for the rest of it.
            connection.begin(1, "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo")
            await connection.round_trip()
            stopped = asyncio.create_task(server.__aexit__(None, None, None))
            await connection.receive_kind(GOAWAY)
            ready = await probe.get("/readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "NOT_SERVING"})
            assert (await probe.get("/healthz")).status_code == 200
            assert "perdure_commit_rows" in (await probe.get("/metrics")).text
            assert not stopped.done()
        await asyncio.wait_for(stopped, 20)
        with pytest.raises(httpx.TransportError):
            await probe.get("/healthz")
