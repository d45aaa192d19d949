"""What happens to activities, counted under the official names once it is durable."""

from __future__ import annotations

from temporalio.api.common.v1 import Payloads

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


def count_heartbeat(step: WorkflowStep, details: Payloads | None) -> None:
    """A worker reported."""
    has_details = "true" if details is not None and details.ByteSize() else "false"
    step.after_commit(step.metrics.activity_heartbeat_count.labels("RecordActivityTaskHeartbeat", step.namespace.name, has_details).inc)


def count_control(step: WorkflowStep, calls: Family[Counter], how: str) -> None:
    """An operator's call was carried out. how: it named its activities ("id", "type", "match_all" or "unpause_all")."""
    step.after_commit(calls.labels(step.namespace.name, how).inc)


def count_pause(step: WorkflowStep, activity: Activity) -> None:
    labels = (step.namespace.name, step.state.started.workflow_type.name, activity.attributes.activity_type.name)
    step.after_commit(step.metrics.paused_activities.labels(*labels).inc)


def _counters(metrics: ServerMetrics, operation: str, closed: bool) -> list[Family[Counter]]:
    if operation == COMPLETED:
        return [metrics.activity_success]
    if operation == CANCELED:
        return [metrics.activity_cancel]
    if operation == FAILED:
        return [metrics.activity_task_fail, metrics.activity_fail] if closed else [metrics.activity_task_fail]
    return [metrics.activity_task_timeout, metrics.activity_timeout] if closed else [metrics.activity_task_timeout]
