"""GetWorkflowExecutionHistory, GetWorkflowExecutionHistoryReverse."""

from __future__ import annotations

import asyncio

from temporalio.api.enums.v1 import HistoryEventFilterType
from temporalio.api.history.v1 import History
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import SECOND
from perdure.features.workflow.rpc.paging import PAGE_BATCHES, HistoryPages, PageToken, decode_page_token, encode_page_token
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices


class HistoryRpc:
    """Reads histories, and waits for what is to come."""

    def __init__(self, services: WorkflowServices, pages: HistoryPages) -> None:
        self._services = services
        self._pages = pages

    def register(self, methods: MethodTable) -> None:
        methods.handle("GetWorkflowExecutionHistory", self.get)

    async def get(self, request: GetWorkflowExecutionHistoryRequest, call: Call) -> GetWorkflowExecutionHistoryResponse:
        token = decode_page_token(request.next_page_token) if request.next_page_token else PageToken(request.execution.run_id, 1, 0)
        workflow_id = request.execution.workflow_id
        execution = await self._services.run(call.namespace_id, workflow_id, token.run_id)
        run_id = execution.key.run_id
        close_only = request.history_event_filter_type == HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        if request.wait_new_event and execution.state.is_open and (close_only or execution.durable_event_id < token.next_event_id):
            execution = await self._wait(execution, call, token.next_event_id, close_only=close_only)
        state = execution.state
        response = GetWorkflowExecutionHistoryResponse()
        if close_only:
            if not state.is_open:
                history, _ = await self._pages.read(execution, state.close_event_id, state.close_event_id)
                events = History.FromString(history).events
                response.history.events.append(events[-1])
            elif request.wait_new_event:
                response.next_page_token = encode_page_token(PageToken(run_id, token.next_event_id, 0))
                response.history.SetInParent()
            else:
                last = execution.durable_event_id
                history, _ = await self._pages.read(execution, last, last)
                response.history.events.extend(History.FromString(history).events[-1:])
            return response
        last = token.last_event_id or execution.durable_event_id
        history, after = await self._pages.read(execution, token.next_event_id, last, request.maximum_page_size or PAGE_BATCHES)
        response.history.MergeFromString(history)
        if after:
            response.next_page_token = encode_page_token(PageToken(run_id, after, token.last_event_id))
        elif request.wait_new_event and state.is_open:
            response.next_page_token = encode_page_token(PageToken(run_id, last + 1, 0))
        return response

    async def _wait(self, execution: WorkflowExecution, call: Call, next_event_id: int, *, close_only: bool) -> WorkflowExecution:
        """Wait until there is news, or the poll's time is over."""
        services = self._services
        until = services.clock.now() + services.limits.history_long_poll_ns
        if call.deadline is not None:
            until = min(until, call.deadline - SECOND)
        while services.clock.now() < until:
            execution.pins += 1
            changed = asyncio.shield(execution.next_change())
            alarm = services.clock.call_at(until, lambda changed=changed: changed.done() or changed.cancel())
            try:
                await changed
            except asyncio.CancelledError:
                if not changed.cancelled() or (task := asyncio.current_task()) is None or task.cancelling():
                    raise
            finally:
                alarm.cancel()
                execution.pins -= 1
            key = execution.key
            execution = await services.run(key.namespace_id, key.business_id, key.run_id)
            if not execution.state.is_open or (not close_only and execution.durable_event_id >= next_event_id):
                break
        return execution
