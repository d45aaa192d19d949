"""How runs end, counted under the official names once it is durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import EventType

from perdure.core.clock import SECOND
from perdure.features.workflow.update.counts import in_flight
from perdure.features.workflow.update.metrics import WORKFLOW_COMPLETED, WORKFLOW_CONTINUING, count_aborted
from perdure.observability.metrics import Counter, Family
from perdure.observability.server_metrics import COMPLETION, ServerMetrics

if TYPE_CHECKING:
    from perdure.features.workflow.step import WorkflowStep

E = EventType


def count_close(step: WorkflowStep, event_type: int) -> None:
    """The run ends in this step. event_type: of the closing event."""
    state, metrics = step.state, step.metrics
    family = _counter(metrics, event_type)
    labels = (COMPLETION, step.namespace.name, state.task_queue, state.started.workflow_type.name)
    nanoseconds = step.now - state.start_at

    def count() -> None:
        family.labels(*labels).inc()
        if nanoseconds > 0:
            metrics.workflow_schedule_to_close_latency.labels(*labels).observe(nanoseconds / SECOND)
        count_aborted(step, WORKFLOW_CONTINUING if state.new_run_id else WORKFLOW_COMPLETED, in_flight(step))

    step.after_commit(count)


def _counter(metrics: ServerMetrics, event_type: int) -> Family[Counter]:
    match event_type:
        case E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            return metrics.workflow_success
        case E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return metrics.workflow_failed
        case E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            return metrics.workflow_timeout
        case E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            return metrics.workflow_terminate
        case E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return metrics.workflow_continued_as_new
        case _:
            return metrics.workflow_cancel
