"""How attempts of activities end, counted under the official names once it is durable."""

from __future__ import annotations

from perdure.core.clock import SECOND
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.validation import TIMEOUT_TYPE_NAMES
from perdure.observability.metrics import Counter, Family
from perdure.observability.server_metrics import ServerMetrics

COMPLETED = "RespondActivityTaskCompleted"
FAILED = "RespondActivityTaskFailed"
CANCELED = "RespondActivityTaskCanceled"
TIMED_OUT = "TimerActiveTaskActivityTimeout"


def count_end(step: WorkflowStep, activity: Activity, operation: str, started_at: int, *, closed: bool, timeout_type: int = 0) -> None:
    """An attempt ended.

    operation: one of the names above. started_at: of the attempt, 0 when nobody had it. closed: the activity ends with it.
    timeout_type: that struck, ``temporal.api.enums.v1.TimeoutType``.
    """
    metrics, now = step.metrics, step.now
    labels = (operation, step.namespace.name, activity.settings.task_queue.name, step.state.started.workflow_type.name,
              activity.attributes.activity_type.name)  # fmt: skip
    more = (TIMEOUT_TYPE_NAMES[timeout_type],) if timeout_type else ()
    first_scheduled_at = activity.first_scheduled_at

    def count() -> None:
        for family in _counters(metrics, operation, closed):
            family.labels(*labels, *more).inc()
        if started_at and not timeout_type:
            metrics.activity_start_to_close_latency.labels(*labels).observe((now - started_at) / SECOND)
        if closed:
            metrics.activity_schedule_to_close_latency.labels(*labels).observe((now - first_scheduled_at) / SECOND)

    step.after_commit(count)


def _counters(metrics: ServerMetrics, operation: str, closed: bool) -> list[Family[Counter]]:
    if operation == COMPLETED:
        return [metrics.activity_success]
    if operation == CANCELED:
        return [metrics.activity_cancel]
    if operation == FAILED:
        return [metrics.activity_task_fail, metrics.activity_fail] if closed else [metrics.activity_task_fail]
    return [metrics.activity_task_timeout, metrics.activity_timeout] if closed else [metrics.activity_task_timeout]
