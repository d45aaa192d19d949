"""Which builds of the worker's code have worked on a run.

Reset points: the first completed workflow task of each build, through all runs of a chain. BuildIds, BinaryChecksums: search
attributes of the run.
"""

from __future__ import annotations

import functools
import json

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes, WorkflowTaskCompletedEventAttributes
from temporalio.api.workflow.v1 import ResetPointInfo

from perdure.core.clock import timestamp_ns, to_timestamp
from perdure.core.execution import Touch
from perdure.features.workflow import notes
from perdure.features.workflow.registry import applies_note, numbered
from perdure.features.workflow.run.server_attributes import set_keywords
from perdure.features.workflow.run.versioning import apply_task_completed
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

BUILD_IDS = "BuildIds"
BINARY_CHECKSUMS = "BinaryChecksums"
UNVERSIONED = "unversioned"


def inherited_reset_points(started: WorkflowExecutionStartedEventAttributes, start_at: int) -> list[ResetPointInfo]:
    """What a run takes over from the one before; points of runs whose history is gone are left out."""
    return [
        point
        for point in started.prev_auto_reset_points.points
        if not point.HasField("expire_time") or timestamp_ns(point.expire_time) >= start_at
    ]


def end_reset_points(state: WorkflowState) -> None:
    """The run has closed, and another one follows: its own points are good for as long as its history is kept."""
    points = [ResetPointInfo() for _ in state.reset_points]
    for point, old in zip(points, state.reset_points, strict=True):
        point.CopyFrom(old)
        if point.run_id == state.run_id:
            point.expire_time.CopyFrom(to_timestamp(state.close_at + state.retention))
    state.reset_points = points


@numbered(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
def _task_completed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_completed_event_attributes
    state.last_worker_version = attributes.worker_version if attributes.HasField("worker_version") else None
    apply_task_completed(state, attributes)
    _note_build_id(state, attributes)
    version = attributes.deployment_version if attributes.HasField("deployment_version") else attributes.worker_version
    build = (attributes.binary_checksum, version.build_id)
    if any((point.binary_checksum, point.build_id) == build for point in state.reset_points):
        return
    point = ResetPointInfo(
        binary_checksum=build[0], build_id=build[1], run_id=state.run_id, first_workflow_task_completed_id=event.event_id,
        create_time=event.event_time, resettable=not (state.children or state.external_signals or state.external_cancels),
    )  # fmt: skip
    state.reset_points = [*state.reset_points, point]
    if build[0]:
        _show_checksums(state)


def _show_checksums(state: WorkflowState) -> None:
    checksums = [point.binary_checksum for point in state.reset_points if point.binary_checksum]
    if checksums or BINARY_CHECKSUMS in state.search_attributes:
        set_keywords(state, BINARY_CHECKSUMS, checksums)


def forget_old_reset_points(step: WorkflowStep) -> None:
    """After a workflow task of a new build: one run remembers only so many."""
    surplus = len(step.state.reset_points) - step.limits.auto_reset_points
    if surplus > 0:
        step.note(notes.ResetPointsForgotten(surplus))


@applies_note(notes.ResetPointsForgotten)
def _forgotten(state: WorkflowState, note: notes.ResetPointsForgotten, touch: Touch) -> None:
    state.reset_points = state.reset_points[note.count :]
    _show_checksums(state)


def _note_build_id(state: WorkflowState, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    stamp = attributes.worker_version
    if stamp.use_versioning or attributes.HasField("deployment_version"):
        return
    old = state.search_attributes.get(BUILD_IDS)
    noted = _with_build(old.data if old is not None else b"[]", stamp.build_id)
    if noted is not None:
        set_keywords(state, BUILD_IDS, noted)


@functools.lru_cache(1000)
def _with_build(data: bytes, build_id: str) -> tuple[str, ...] | None:
    """The keywords with those of a build added; None when they have them already. data: the keywords as JSON."""
    known: list[str] = json.loads(data)
    found = [UNVERSIONED, f"{UNVERSIONED}:{build_id}"] if build_id else [UNVERSIONED]
    new = [keyword for keyword in found if keyword not in known]
    return (*known, *new) if new else None
