"""GetWorkflowExecutionHistory, GetWorkflowExecutionHistoryReverse.

What is stored goes out as it is: the answers are put together from bytes, because decoding and encoding a big history again would cost
more than everything else about it.
"""

from __future__ import annotations

from functools import partial

from temporalio.api.enums.v1 import EventType, HistoryEventFilterType
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
    GetWorkflowExecutionHistoryReverseRequest,
)

from perdure.core.call import ANSWER_BEFORE, Call, MethodTable
from perdure.core.errors import invalid_argument
from perdure.core.records import field_bytes
from perdure.features.workflow.rpc.paging import HistoryPages, PageToken, decode_page_token, encode_page_token
from perdure.features.workflow.rpc.waiting import Patience
from perdure.features.workflow.run.closing import run_timeout_failure
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.state import Status
from perdure.features.workflow.task.lifecycle import unwritten_events
from perdure.features.workflow.validation import check_execution

WRITTEN_ONLY = frozenset({"temporal-cli", "temporal-ui"})
"""Clients that show histories to people, and would show events that may yet turn out never to have been."""

FOLLOWS_NEXT_RUN = "follows-next-run-id"
"""What a client says that looks for the next run of a workflow in every event that ends a run."""

HISTORY_TAG = b"\x0a"
"""Field 1, length-delimited: ``history`` in both responses."""


class HistoryRpc:
    """Reads histories, and waits for what is to come."""

    def __init__(self, services: WorkflowServices, pages: HistoryPages) -> None:
        self._services = services
        self._pages = pages

    def register(self, methods: MethodTable) -> None:
        methods.handle("GetWorkflowExecutionHistory", self.get)
        methods.handle("GetWorkflowExecutionHistoryReverse", self.get_reverse)

    async def get(self, request: GetWorkflowExecutionHistoryRequest, call: Call) -> bytes:
        token = _token(request)
        execution = await self._services.run(call.namespace_id, request.execution.workflow_id, token.run_id)
        if request.history_event_filter_type == HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT:
            return await self._close_event(request, call, execution)
        if request.wait_new_event and not token.last_event_id:
            execution = await self._wait(execution, call, token.next_event_id)
        return await self._page(request, call, execution, token)

    async def _page(self, request: GetWorkflowExecutionHistoryRequest, call: Call, execution: WorkflowExecution, token: PageToken) -> bytes:
        is_open, run_id = execution.state.is_open, execution.key.run_id
        last = min(token.last_event_id or execution.durable_event_id, execution.durable_event_id)
        unwritten = _unwritten(execution, call) if last == execution.durable_event_id else b""
        page = await self._pages.read(execution, token.next_event_id, last, self._page_size(request.maximum_page_size))
        if page.after <= last or (page.is_full and page.events):
            return _response(page.events, encode_page_token(PageToken(run_id, page.after, token.last_event_id)))
        if request.wait_new_event and is_open and not token.last_event_id:
            return _response(page.events + unwritten, encode_page_token(PageToken(run_id, page.after, 0)))
        return _response(page.events + unwritten)

    async def _close_event(self, request: GetWorkflowExecutionHistoryRequest, call: Call, execution: WorkflowExecution) -> bytes:
        """The last event of a run that has closed. Of a paused one too: tools that describe a run expect an event unless it is running."""
        run_id = execution.key.run_id
        if request.wait_new_event:
            execution = await self._wait(execution, call, None)
        state = execution.state
        if not state.is_open:
            event = await self._pages.one(execution, state.close_event_id)
            return _response(_as_continued(event) if state.new_run_id and not _follows_runs(call) else event)
        if request.wait_new_event:
            return _response(b"", encode_page_token(PageToken(run_id, execution.durable_event_id + 1, 0)))
        if state.status != Status.RUNNING:
            return _response(await self._pages.one(execution, execution.durable_event_id))
        return _response(b"")

    async def get_reverse(self, request: GetWorkflowExecutionHistoryReverseRequest, call: Call) -> bytes:
        token = _token(request)
        execution = await self._services.run(call.namespace_id, request.execution.workflow_id, token.run_id)
        last = token.last_event_id or execution.durable_event_id
        page = await self._pages.read_reverse(execution, last, self._page_size(request.maximum_page_size))
        if page.after < 1:
            return _response(page.events)
        return _response(page.events, encode_page_token(PageToken(execution.key.run_id, 1, page.after)))

    def _page_size(self, wanted: int) -> int:
        """In batches: what was written together comes together."""
        longest = self._services.limits.history_page
        return wanted if 0 < wanted < longest else longest

    async def _wait(self, execution: WorkflowExecution, call: Call, next_event_id: int | None) -> WorkflowExecution:
        """Wait until that event is there (None: the last one) or the run has closed, or the poll's time is over, or the server stops."""
        services = self._services
        patience = Patience(services, call, services.limits.history_long_poll_ns)
        if call.deadline is not None:
            patience.until = min(patience.until, call.deadline - ANSWER_BEFORE)
        key = execution.key
        while not _has_come(execution, next_event_id, execution.durable_event_id):
            if patience.is_cut_short or services.clock.now() >= patience.until:
                return await services.run(key.namespace_id, key.business_id, key.run_id)
            await patience.next_change(execution, partial(_has_come, execution, next_event_id))
            execution = await services.run(key.namespace_id, key.business_id, key.run_id)
        return execution


def _has_come(execution: WorkflowExecution, event_id: int | None, last_event_id: int) -> bool:
    """Whether that event is there, or no event will come any more. None: only the latter. last_event_id: up to which there are events."""
    return not execution.state.is_open or (event_id is not None and last_event_id >= event_id)


def _token(request: GetWorkflowExecutionHistoryRequest | GetWorkflowExecutionHistoryReverseRequest) -> PageToken:
    """Where to read on; from the beginning (or the end) without a token. Raises ApiError INVALID_ARGUMENT."""
    check_execution(request.execution if request.HasField("execution") else None)
    if not request.next_page_token:
        return PageToken(request.execution.run_id, 1, 0)
    token = decode_page_token(request.next_page_token)
    if request.execution.run_id not in ("", token.run_id):
        raise invalid_argument("RunId in the request does not match the NextPageToken.")
    return token


def _unwritten(execution: WorkflowExecution, call: Call) -> bytes:
    """The events of a workflow task that is not written (yet), for readers that will not be confused when they vanish."""
    if call.headers.get("client-name") in WRITTEN_ONLY:
        return b""
    return History(events=unwritten_events(execution.state, execution.volatile)).SerializeToString()


def _follows_runs(call: Call) -> bool:
    """Whether the client says that it finds the next run in any closing event."""
    return FOLLOWS_NEXT_RUN in call.headers.get("supported-features", "").split(",")


def _as_continued(events: bytes) -> bytes:
    """The close of a run that is followed by another one, told as if it had continued as new.

    That is where a client that waits for the result looks for the next run, unless it says that it looks elsewhere, too.
    """
    close = History.FromString(events).events[0]
    continued = HistoryEvent(
        event_id=close.event_id, event_time=close.event_time, version=close.version, task_id=close.task_id,
        event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    )  # fmt: skip
    attributes = continued.workflow_execution_continued_as_new_event_attributes
    match close.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            completed = close.workflow_execution_completed_event_attributes
            attributes.new_execution_run_id = completed.new_execution_run_id
            if completed.HasField("result"):
                attributes.last_completion_result.CopyFrom(completed.result)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            failed = close.workflow_execution_failed_event_attributes
            attributes.new_execution_run_id = failed.new_execution_run_id
            attributes.failure.CopyFrom(failed.failure)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            attributes.new_execution_run_id = close.workflow_execution_timed_out_event_attributes.new_execution_run_id
            attributes.failure.CopyFrom(run_timeout_failure())
        case _:
            return events
    return History(events=[continued]).SerializeToString()


def _response(events: bytes, next_page_token: bytes = b"") -> bytes:
    """Either response: both have the history in field 1 and the token in field 3."""
    rest = GetWorkflowExecutionHistoryResponse(next_page_token=next_page_token).SerializeToString()
    return field_bytes(HISTORY_TAG, events) + rest
