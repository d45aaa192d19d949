"""The workflow as a kind of execution: everything the engine needs to know about it, derived from what the concerns registered."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.history.v1 import HistoryEvent

from perdure.core import codec
from perdure.core.execution import RunKey, Touch, Visible
from perdure.core.ids import IdSource
from perdure.core.jobs import Part
from perdure.core.limits import Limits
from perdure.core.records import Note, NoteCodec
from perdure.features.namespace.registry import NamespaceRegistry
from perdure.features.workflow import notes
from perdure.features.workflow.activity.lifecycle import apply_heartbeat, clear_heartbeats
from perdure.features.workflow.registry import EVENT_APPLIERS, NOTE_APPLIERS, NUMBERED
from perdure.features.workflow.run.external_payloads import count_external_payloads, listed_attributes, may_refer
from perdure.features.workflow.state import WorkflowState, WorkflowVolatile
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.step_end import EndingStep
from perdure.features.workflow.task.completion_pages import CompletionBuffer
from perdure.observability.server_metrics import ServerMetrics

WORKFLOW = "workflow"

# What parts take in memory beside the data they hold (measured).
ACTIVITY_BYTES = 1_500
SMALL_PART_BYTES = 400
REQUEST_ID_BYTES = 150

_STATE_CODEC: codec.Codec[WorkflowState] = codec.Codec(WorkflowState)


class WorkflowKind:
    """Implements :class:`perdure.core.execution.Kind`."""

    name = WORKFLOW
    notes = NoteCodec(notes.ALL)
    snapshot_version = codec.schema_version(WorkflowState)

    def __init__(self, limits: Limits, namespaces: NamespaceRegistry, metrics: ServerMetrics) -> None:
        self.limits = limits
        self.namespaces = namespaces
        self.metrics = metrics
        self.completion_buffer = CompletionBuffer()

    def new_state(self) -> WorkflowState:
        return WorkflowState()

    def new_volatile(self) -> WorkflowVolatile:
        return WorkflowVolatile()

    def step(self, key: RunKey, state: WorkflowState, volatile: WorkflowVolatile, now: int, ids: IdSource) -> WorkflowStep:
        return EndingStep(
            self.limits, self.namespaces, self.metrics, self.completion_buffer, self, key, state, volatile, now, ids, state.next_event_id
        )

    def apply_event(self, state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
        EVENT_APPLIERS[event.event_type](state, event, touch)

    def number_event(self, state: WorkflowState, event: HistoryEvent, data: bytes, touch: Touch) -> None:
        state.next_event_id = event.event_id + 1
        state.history_size += len(data)
        if may_refer(data) is not None:
            count_external_payloads(state, event, data)
        if state.numbering:
            state.numbering -= 1
        applier = NUMBERED.get(event.event_type)
        if applier is not None:
            applier(state, event, touch)

    def is_applied(self, state: WorkflowState) -> bool:
        return state.numbering > 0

    def apply_note(self, state: WorkflowState, note: Note, touch: Touch) -> None:
        NOTE_APPLIERS[type(note)](state, note, touch)

    def apply_side(self, state: WorkflowState, name: str, data: bytes | None, touch: Touch) -> None:
        apply_heartbeat(state, name, data, touch)

    def clear_side(self, state: WorkflowState) -> None:
        clear_heartbeats(state)

    def parts(self, state: WorkflowState) -> Iterable[Part]:
        return state.parts()

    def volatile_parts(self, volatile: WorkflowVolatile) -> Iterable[Part]:
        return () if volatile.speculative is None else (volatile.speculative,)

    def next_event_id(self, state: WorkflowState) -> int:
        return state.next_event_id

    def shown(self, state: WorkflowState) -> object:
        return (state.status, state.close_at, state.execution_at, state.task_queue, state.search_attributes_json, state.memo_bytes)

    def visible(self, state: WorkflowState) -> Visible:
        started = state.started
        return Visible(
            type_name=started.workflow_type.name,
            task_queue=state.task_queue,
            status=int(state.status),
            is_open=state.is_open,
            start_at=state.start_at,
            execution_at=state.execution_at,
            close_at=state.close_at or None,
            expire_at=state.close_at + state.retention if state.close_at else None,
            history_length=state.next_event_id - 1,
            history_size=state.history_size,
            parent_business_id=started.parent_workflow_execution.workflow_id or None,
            parent_run_id=started.parent_workflow_execution.run_id or None,
            root_business_id=started.root_workflow_execution.workflow_id or state.workflow_id,
            root_run_id=started.root_workflow_execution.run_id or state.run_id,
            search_attributes=listed_attributes(state),
            memo=state.memo_bytes,
            details=b"",
        )

    def weight(self, state: WorkflowState) -> int:
        many = len(state.activities) * ACTIVITY_BYTES + (len(state.timers) + len(state.updates)) * SMALL_PART_BYTES
        return many + len(state.signal_request_ids) * REQUEST_ID_BYTES + state.pending_bytes + len(state.memo_bytes) * 2

    def encode_state(self, state: WorkflowState, *, deterministic: bool = False) -> bytes:
        return codec.encode_deterministic(state) if deterministic else _STATE_CODEC.encode(state)

    def decode_state(self, data: bytes) -> WorkflowState:
        return _STATE_CODEC.decode(data)
