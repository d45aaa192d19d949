"""How soon one run may follow another under the same workflow id."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from perdure.core.clock import MILLISECOND, duration_ns, to_duration
from perdure.core.errors import busy_workflow
from perdure.core.limits import Limits
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep


def held_back(step: WorkflowStep, given: Duration | None) -> Duration | None:
    """The backoff of the run that follows by itself (None: not given), raised so that the two begin far enough apart."""
    minimum = step.limits.workflow_id_reuse_minimal_interval_ns
    lifetime = step.now - step.state.execution_at
    if lifetime + (duration_ns(given) if given is not None else 0) < minimum:
        return to_duration(minimum - lifetime)
    return given


def check_pace(limits: Limits, latest: WorkflowState, now: int) -> None:
    """For a run that somebody starts: it begins, and ends the latest one if need be, only if that one began long enough ago.

    now: nanoseconds since the epoch. Raises ApiError RESOURCE_EXHAUSTED.
    """
    minimum = limits.workflow_id_reuse_minimal_interval_ns
    since = now - latest.start_at
    if not limits.workflow_id_reuse_start_time_validation or minimum == 0 or since > minimum:
        return
    what = "restarts" if latest.is_open else "starts"
    raise busy_workflow(f"Too many {what} for workflow {latest.workflow_id}. Time since last start: {since // MILLISECOND} ms")
