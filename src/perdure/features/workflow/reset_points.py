"""Reset points: the first completed workflow task of each build of the worker's code, through all runs of a chain."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.api.workflow.v1 import ResetPointInfo, ResetPoints

from perdure.core.clock import timestamp_ns, to_timestamp
from perdure.core.execution import Touch
from perdure.features.workflow.registry import numbered
from perdure.features.workflow.state import WorkflowState

MAXIMUM = 20
"""Older ones are forgotten."""


def inherited_reset_points(started: WorkflowExecutionStartedEventAttributes, start_at: int) -> list[ResetPointInfo]:
    """What a run takes over from the one before; points of runs whose history is gone are left out."""
    return [
        point
        for point in started.prev_auto_reset_points.points
        if not point.HasField("expire_time") or timestamp_ns(point.expire_time) >= start_at
    ]


def handed_on_reset_points(state: WorkflowState, now: int, retention: int) -> ResetPoints:
    """For the next run: the points of this one are good for as long as its history is kept."""
    points = ResetPoints(points=state.reset_points)
    for point in points.points:
        if point.run_id == state.run_id:
            point.expire_time.CopyFrom(to_timestamp(now + retention))
    return points


@numbered(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
def _task_completed(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.workflow_task_completed_event_attributes
    build = (attributes.binary_checksum, attributes.worker_version.build_id)
    if any((point.binary_checksum, point.build_id) == build for point in state.reset_points):
        return
    point = ResetPointInfo(
        binary_checksum=build[0], build_id=build[1], run_id=state.run_id, first_workflow_task_completed_id=event.event_id,
        create_time=event.event_time, resettable=not (state.children or state.external_signals or state.external_cancels),
    )  # fmt: skip
    state.reset_points = [*state.reset_points, point][-MAXIMUM:]
