"""Makes the plan of a reset: reads the histories that it is made from, in small portions, so that others get their turn meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History, HistoryEvent

from perdure.core.records import event_bytes
from perdure.engine.loader import fold
from perdure.features.workflow import notes
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.reset.reapply import EVERYTHING, is_eligible
from perdure.features.workflow.reset.reset import ResetPlan, check_point
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.state import WorkflowState
from perdure.store.protocol import JournalRow

ROWS_AT_ONCE = 256
TASK_BEGINS = frozenset({EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED})
"""Behind these, nothing that belongs to one change is torn apart, also where a row goes on: they end a change, or are one of their own."""

EVENTS_AT_ONCE = 500
"""After so many events, others get their turn. A row is never divided."""


async def make_plan(services: WorkflowServices, base: WorkflowExecution, finish_event_id: int, excluded: frozenset[int]) -> ResetPlan:
    """Plan the reset of a run, which was just read. Raises ApiError INVALID_ARGUMENT for a point that is none."""
    last_event_id = base.durable_event_id
    current = await services.engine.read(base.key.chain, None)
    current_run_id = current.key.run_id if current is not None else ""
    new_run_id = services.engine.ids.run_id(services.clock.now())
    rows, state = await _copy(services, base, finish_event_id, new_run_id, current_run_id)
    events: list[HistoryEvent] = []
    seen = {base.key.run_id: last_event_id}
    if not excluded >= EVERYTHING:
        next_run_id = await _collect(services, base, finish_event_id, last_event_id, events, of_base=True)
        while next_run_id:
            run = await services.engine.read(base.key.chain, next_run_id)
            if run is None:
                break  # it was deleted, and with it the way to those behind it
            last_event_id = run.durable_event_id
            seen[next_run_id] = last_event_id
            next_run_id = await _collect(services, run, 1, last_event_id, events, of_base=False)
    else:
        seen.clear()
    return ResetPlan(
        base.key.run_id, new_run_id, finish_event_id, rows, state, events, _initiators(base, state), current_run_id,
        seen.get(current_run_id, -1),
    )  # fmt: skip


def _initiators(base: WorkflowExecution, state: WorkflowState) -> dict[int, str]:
    """Who initiated the children that come over. The start of one must stay the same one, if it is under way."""
    known = base.state.children
    return {child_id: (known[child_id].initiated_by if child_id in known else "") or base.key.run_id for child_id in state.children}


async def _copy(
    services: WorkflowServices, base: WorkflowExecution, finish_event_id: int, new_run_id: str, previous_run_id: str
) -> tuple[list[JournalRow], WorkflowState]:
    """The rows that the new run begins with, and their fold."""
    kind = services.engine.kinds[WORKFLOW]
    state = kind.new_state()
    namespace = services.namespaces.by_id(base.key.namespace_id)
    created = notes.RunCreated(
        base.key.business_id, new_run_id, namespace.retention, base.state.start_request_id, previous_run_id, base.state.earlier_task_ids
    )
    note_bytes = kind.notes.encode([(0, created)])
    rows: list[JournalRow] = []
    at_boundary = False
    async for row in rows_of(services, base, 1, finish_event_id - 1):
        last_event_id = row.first_event_id + row.event_count - 1
        events, count = row.events, row.event_count
        at_boundary = last_event_id == finish_event_id - 1
        if last_event_id >= finish_event_id:
            count = finish_event_id - row.first_event_id
            copied_events = History.FromString(events).events[:count]
            at_boundary = copied_events[-1].event_type in TASK_BEGINS
            events = b"".join(event_bytes(event) for event in copied_events)
        copied = JournalRow(0, len(rows) + 1, row.first_event_id, count, events, b"" if rows else note_bytes)
        fold(kind, state, copied)
        rows.append(copied)
    check_point(state, finish_event_id, at_boundary=at_boundary)
    return rows, state


async def _collect(
    services: WorkflowServices, run: WorkflowExecution, first_event_id: int, last_event_id: int, events: list[HistoryEvent],
    *, of_base: bool,
) -> str:  # fmt: skip
    """Add a run's events that may have to happen again; returns the id of the run it continued as, "" for none."""
    next_run_id = ""
    async for row in rows_of(services, run, first_event_id, last_event_id):
        for event in History.FromString(row.events).events:
            if first_event_id <= event.event_id <= last_event_id and is_eligible(event, of_base=of_base):
                events.append(event)
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                next_run_id = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return next_run_id


async def rows_of(services: WorkflowServices, run: WorkflowExecution, first_event_id: int, last_event_id: int) -> AsyncIterator[JournalRow]:
    """The durable journal rows with events first..last."""
    events = 0
    while first_event_id <= last_event_id:
        rows = await services.engine.store.read_history(run.uid, first_event_id, ROWS_AT_ONCE)
        for row in rows:
            if row.first_event_id > last_event_id:
                return
            yield row
            events += row.event_count
            if events >= EVENTS_AT_ONCE:
                events = 0
                await asyncio.sleep(0)
        if not rows:
            return
        first_event_id = rows[-1].first_event_id + rows[-1].event_count
