"""ListWorkflowExecutions and CountWorkflowExecutions, for queries that need no query language: none, or comparisons joined by AND."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from temporalio.api.common.v1 import Memo, Payload, SearchAttributes, WorkflowType
from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionId
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    CountWorkflowExecutionsResponse,
    ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.clock import to_duration, to_timestamp
from perdure.core.codec import Codec
from perdure.core.errors import ApiError, invalid_argument
from perdure.features.search_attributes.types import BUILT_IN, PREDEFINED, type_name
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.state import Status
from perdure.store.protocol import Header

_LITERAL = r"""(?:'([^']*)'|"([^"]*)"|([\w.+-]+))"""
_CONDITION = re.compile(rf"\s*(`?)(\w+)\1\s*(?:(=|!=)\s*{_LITERAL}|(IS\s+NOT\s+NULL)|(IS\s+NULL))\s*", re.IGNORECASE)
_AND = re.compile(r"AND\b", re.IGNORECASE)

Matches = Callable[[Header], bool]


class _Position(NamedTuple):
    """The last row of a page."""

    start_at: int
    uid: int


_POSITIONS: Codec[_Position] = Codec(_Position)


class VisibilityRpc:
    """Lists and counts workflow runs. What has been answered before is seen: the header rows are the list."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, methods: MethodTable) -> None:
        methods.handle("ListWorkflowExecutions", self.list)
        methods.handle("CountWorkflowExecutions", self.count)

    async def list(self, request: ListWorkflowExecutionsRequest, call: Call) -> ListWorkflowExecutionsResponse:
        custom = self._services.namespaces.by_id(call.namespace_id).search_attributes
        matches = parse_query(request.query, custom)
        longest = self._services.limits.visibility_page
        size = request.page_size if 0 < request.page_size <= longest else longest
        after = _decode_position(request.next_page_token) if request.next_page_token else None
        found: list[Header] = []
        async for header in self._headers(call.namespace_id, after, size + 1):
            if matches is None or matches(header):
                found.append(header)
                if len(found) > size:
                    break
        token = b""
        if len(found) > size:
            last = found[size - 1]
            token = _POSITIONS.encode(_Position(last.start_at, last.uid))
        executions = [describe_header(header, custom) for header in found[:size]]
        return ListWorkflowExecutionsResponse(executions=executions, next_page_token=token)

    async def count(self, request: CountWorkflowExecutionsRequest, call: Call) -> CountWorkflowExecutionsResponse:
        matches = parse_query(request.query, self._services.namespaces.by_id(call.namespace_id).search_attributes)
        if matches is None:
            return CountWorkflowExecutionsResponse(count=await self._services.engine.store.count_headers(call.namespace_id, WORKFLOW))
        count = 0
        async for header in self._headers(call.namespace_id, None, self._services.limits.visibility_page):
            count += matches(header)
        return CountWorkflowExecutionsResponse(count=count)

    async def _headers(self, namespace_id: str, after: _Position | None, limit: int) -> AsyncIterator[Header]:
        while True:
            headers = await self._services.engine.store.list_headers(namespace_id, WORKFLOW, after=after, limit=limit)
            for header in headers:
                yield header
            if len(headers) < limit:
                return
            after = _Position(headers[-1].start_at, headers[-1].uid)


def _decode_position(token: bytes) -> _Position:
    try:
        return _POSITIONS.decode(token)
    except (ValueError, msgspec.MsgspecError):
        raise invalid_argument("Invalid NextPageToken.") from None


def parse_query(query: str, custom: Mapping[str, int]) -> Matches | None:
    """A predicate on header rows, None for "all". Raises ApiError INVALID_ARGUMENT for what is no conjunction of comparisons."""
    rest = query.strip()
    if not rest:
        return None
    conditions: list[Matches] = []
    while True:
        matched = _CONDITION.match(rest)
        if matched is None:
            raise _unsupported(query)
        conditions.append(_condition(matched, custom, query))
        rest = rest[matched.end() :]
        if not rest:
            break
        joined = _AND.match(rest)
        if joined is None:
            raise _unsupported(query)
        rest = rest[joined.end() :]
    return lambda header: all(condition(header) for condition in conditions)


def _condition(matched: re.Match[str], custom: Mapping[str, int], query: str) -> Matches:
    _, name, operator, single, double, bare, is_not_null, is_null = matched.groups()
    if name not in _COLUMNS and name not in custom and name not in PREDEFINED:
        raise _unsupported(query) if name in BUILT_IN else invalid_argument(f"invalid query: invalid search attribute: {name}")
    value_of = _COLUMNS.get(name) or _stored(name)
    if is_null:
        return lambda header: value_of(header) is None
    if is_not_null:
        return lambda header: value_of(header) is not None
    wanted: Any = single if single is not None else double
    if wanted is None:
        try:
            wanted = json.loads(bare.lower())
        except ValueError:
            raise _unsupported(query) from None

    def equals(header: Header) -> bool:
        value = value_of(header)
        return wanted in value if isinstance(value, list) else value == wanted

    return equals if operator == "=" else lambda header: not equals(header)


def _stored(name: str) -> Callable[[Header], Any]:
    return lambda header: json.loads(header.search_attributes).get(name)


def _unsupported(query: str) -> ApiError:
    return invalid_argument(f"invalid query: this server understands only comparisons with = joined by AND so far, not: {query}")


def _status_name(header: Header) -> str:
    return "".join(word.capitalize() for word in Status(header.status).name.split("_"))


_COLUMNS: Mapping[str, Callable[[Header], Any]] = {
    "WorkflowId": lambda header: header.business_id,
    "RunId": lambda header: header.run_id,
    "WorkflowType": lambda header: header.type_name,
    "TaskQueue": lambda header: header.task_queue,
    "ExecutionStatus": _status_name,
}


def describe_header(header: Header, custom: Mapping[str, int]) -> WorkflowExecutionInfo:
    """The row as lists show it. custom: the namespace's own search attributes; values of removed ones are not shown."""
    info = WorkflowExecutionInfo(
        execution=WorkflowExecutionId(workflow_id=header.business_id, run_id=header.run_id),
        type=WorkflowType(name=header.type_name),
        start_time=to_timestamp(header.start_at),
        execution_time=to_timestamp(header.execution_at),
        status=header.status,  # pyright: ignore[reportArgumentType]
        memo=Memo.FromString(header.memo),
        search_attributes=typed_attributes(header.search_attributes, custom),
        task_queue=header.task_queue,
        root_execution=WorkflowExecutionId(workflow_id=header.root_business_id, run_id=header.root_run_id),
    )
    if header.parent_business_id:
        info.parent_execution.workflow_id = header.parent_business_id
        info.parent_execution.run_id = header.parent_run_id or ""
    if header.close_at is not None:
        info.close_time.CopyFrom(to_timestamp(header.close_at))
        info.execution_duration.CopyFrom(to_duration(header.close_at - header.execution_at))
        info.history_length = header.history_length
        info.history_size_bytes = header.history_size
        info.state_transition_count = header.state_transitions
    return info


def typed_attributes(attributes: str, custom: Mapping[str, int]) -> SearchAttributes:
    """Search attributes kept as JSON, as clients get them: with the type of each."""
    fields: dict[str, Payload] = {}
    for name, value in json.loads(attributes).items():
        value_type = custom.get(name) or PREDEFINED.get(name)
        if value_type:
            metadata = {"encoding": b"json/plain", "type": type_name(value_type).encode()}
            fields[name] = Payload(metadata=metadata, data=json.dumps(value, separators=(",", ":")).encode())
    return SearchAttributes(indexed_fields=fields)
