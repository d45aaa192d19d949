"""The metrics that parts of the server write to, under the official server's names where it has one; our own begin with ``perdure_``.

The label ``service_name`` is that of the official service that does the work, which is what dashboards select by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from perdure.core.execution import RunKey
from perdure.observability.metrics import COUNT_BUCKETS, Counter, Family, Gauge, Histogram, Registry
from perdure.observability.rpc_metrics import FRONTEND

HISTORY = "history"
MATCHING = "matching"

COMPLETION = "CompletionStats"
"""The value of ``operation`` in counts of how executions end."""

_CLOSED = ("operation", "namespace", "taskqueue", "workflowType")
_ACTIVITY = ("operation", "namespace", "taskqueue", "workflowType", "activityType")


class Appended(Protocol):
    """A journal row, as far as it is counted. sequence: the execution's number of transitions with it."""

    @property
    def uid(self) -> int: ...

    @property
    def sequence(self) -> int: ...


class Changed(Protocol):
    """An execution, as far as it is counted."""

    @property
    def key(self) -> RunKey: ...


class Executions(Protocol):
    """A cache of executions. limit, size: bytes."""

    hits: int
    misses: int
    limit: int
    size: int


class ServerMetrics:
    """Every metric but those of the API's requests.

    A family's ``labels(…)`` takes values in the order given here: see ``label_names``. Satisfies the engine's observer of commits.
    """

    def __init__(self, registry: Registry) -> None:
        #: From a namespace's id to the name that people know. The server sets it once it knows any.
        self.namespace_name: Callable[[str], str] = str
        self._workflows(registry)
        self._activities(registry)
        self._task_queues(registry)
        self._store(registry)
        self._cache(registry)
        self.event_loop_lag: Histogram = registry.histogram(
            "perdure_event_loop_lag", "Seconds that the event loop was late to run a timer: how long every call had to wait."
        ).labels()

    def _workflows(self, registry: Registry) -> None:
        def closed(name: str, how: str) -> Family[Counter]:
            return registry.counter(name, f"Workflow runs that {how}.", *_CLOSED, service_name=HISTORY)

        self.workflow_success = closed("workflow_success", "completed")
        self.workflow_failed = closed("workflow_failed", "failed")
        self.workflow_timeout = closed("workflow_timeout", "timed out")
        self.workflow_terminate = closed("workflow_terminate", "were terminated")
        self.workflow_cancel = closed("workflow_cancel", "were canceled")
        self.workflow_continued_as_new = closed("workflow_continued_as_new", "continued as new")
        self.workflow_schedule_to_close_latency: Family[Histogram] = registry.histogram(
            "workflow_schedule_to_close_latency", "Seconds from start to close of a workflow run.", *_CLOSED, service_name=HISTORY
        )
        self.failed_workflow_tasks: Family[Counter] = registry.counter(
            "failed_workflow_tasks", "Workflow tasks that failed.", "operation", "namespace", "failure", service_name=HISTORY
        )
        self.state_transition_count: Family[Histogram] = registry.histogram(
            "state_transition_count",
            "How many transitions an execution has had, at each of them.",
            "namespace",
            service_name=HISTORY,
            bounds=COUNT_BUCKETS,
        )
        self._transitions: dict[str, Histogram] = {}
        self._updates(registry)

    def _updates(self, registry: Registry) -> None:
        def asked(stage: str) -> Family[Counter]:
            name, help_text = f"workflow_update_wait_stage_{stage}", f"Calls that wait until an update is {stage}."
            return registry.counter(name, help_text, "operation", "namespace", service_name=FRONTEND)

        def counted(name: str, help_text: str, *more: str) -> Family[Counter]:
            return registry.counter(name, help_text, "operation", "namespace", *more, service_name=HISTORY)

        self.workflow_update_wait_stage_accepted = asked("accepted")
        self.workflow_update_wait_stage_completed = asked("completed")
        self.workflow_update_sent_to_worker = counted("workflow_update_sent_to_worker", "Updates that went with a workflow task.")
        self.workflow_update_aborted = counted("workflow_update_aborted", "Updates that came to nothing.", "reason")
        self.speculative_workflow_task_commits = counted(
            "speculative_workflow_task_commits", "Speculative workflow tasks that were written after all.", "reason"
        )
        self.speculative_workflow_task_rollbacks = counted(
            "speculative_workflow_task_rollbacks", "Speculative workflow tasks that left no trace."
        )

    def _activities(self, registry: Registry) -> None:
        def ended(name: str, help_text: str, *more: str) -> Family[Counter]:
            return registry.counter(name, help_text, *_ACTIVITY, *more, service_name=HISTORY)

        self.activity_success = ended("activity_success", "Activities that completed.")
        self.activity_fail = ended("activity_fail", "Activities that failed and are not retried.")
        self.activity_cancel = ended("activity_cancel", "Activities that were canceled.")
        self.activity_timeout = ended("activity_timeout", "Activities that timed out and are not retried.", "timeout_type")
        self.activity_task_fail = ended("activity_task_fail", "Attempts of activities that failed.")
        self.activity_task_timeout = ended("activity_task_timeout", "Attempts of activities that timed out.", "timeout_type")
        self.activity_start_to_close_latency: Family[Histogram] = registry.histogram(
            "activity_start_to_close_latency", "Seconds of an activity's last attempt.", *_ACTIVITY, service_name=HISTORY
        )
        self.activity_schedule_to_close_latency: Family[Histogram] = registry.histogram(
            "activity_schedule_to_close_latency", "Seconds from schedule to end of an activity.", *_ACTIVITY, service_name=HISTORY
        )
        self.activity_heartbeat_count: Family[Counter] = registry.counter(
            "activity_heartbeat_count", "Heartbeats of activities.", "operation", "namespace", "has_details", service_name=HISTORY
        )

        def operated(name: str, did: str) -> Family[Counter]:
            return registry.counter(name, f"Calls that {did} activities.", "namespace", "activity_targeting_method", service_name=HISTORY)

        self.activity_pause = operated("activity_pause", "paused")
        self.activity_unpause = operated("activity_unpause", "unpaused")
        self.activity_reset = operated("activity_reset", "reset")
        self.activity_update_options = operated("activity_update_options", "changed the options of")
        self.paused_activities: Family[Counter] = registry.counter(
            "paused_activities", "Activities that were paused.", "namespace", "workflowType", "activityType", service_name=HISTORY
        )

    def _task_queues(self, registry: Registry) -> None:
        queue = ("namespace", "taskqueue", "task_type")

        def polled(name: str, help_text: str) -> Family[Counter]:
            return registry.counter(name, help_text, "operation", *queue, service_name=MATCHING)

        self.poll_success = polled("poll_success", "Polls that got a task.")
        self.poll_success_sync = polled("poll_success_sync", "Polls that got a task which did not have to wait.")
        self.poll_timeouts = polled("poll_timeouts", "Polls that ended without a task.")
        self.pending_polls: Family[Gauge] = registry.gauge("pending_polls", "Polls that wait for a task.", *queue, service_name=MATCHING)
        self.no_poller_tasks: Family[Counter] = registry.counter(
            "no_poller_tasks", "Tasks for a queue that nobody has polled lately.", *queue, service_name=MATCHING
        )
        self.task_dispatch_latency: Family[Histogram] = registry.histogram(
            "task_dispatch_latency", "Seconds that a task waited for a poll.", *queue, service_name=MATCHING
        )
        self.approximate_backlog_count: Family[Gauge] = registry.gauge(
            "approximate_backlog_count", "Tasks that wait for a poll.", *queue, service_name=MATCHING
        )
        self.approximate_backlog_age_seconds: Family[Gauge] = registry.gauge(
            "approximate_backlog_age_seconds", "Seconds that the oldest waiting task has waited.", *queue, service_name=MATCHING
        )
        self.loaded_task_queue_count: Gauge = registry.gauge(
            "loaded_task_queue_count", "Task queues in memory.", service_name=MATCHING
        ).labels()

    def _store(self, registry: Registry) -> None:
        self.persistence_requests: Family[Counter] = registry.counter(
            "persistence_requests", "Calls of the store.", "operation", service_name=HISTORY
        )
        self.persistence_errors: Family[Counter] = registry.counter(
            "persistence_errors", "Calls of the store that failed.", "operation", service_name=HISTORY
        )
        self.persistence_latency: Family[Histogram] = registry.histogram(
            "persistence_latency", "Seconds of a call of the store.", "operation", service_name=HISTORY
        )
        self.commit_rows: Histogram = registry.histogram("perdure_commit_rows", "Rows written by a commit.", bounds=COUNT_BUCKETS).labels()
        self.commit_executions: Histogram = registry.histogram(
            "perdure_commit_executions", "Executions that share a commit.", bounds=COUNT_BUCKETS
        ).labels()
        self._commits = self.persistence_requests.labels("Commit")
        self._commit_errors = self.persistence_errors.labels("Commit")
        self._commit_latency = self.persistence_latency.labels("Commit")

    def _cache(self, registry: Registry) -> None:
        cache = "cache_type"
        self.cache_requests: Counter = registry.counter("cache_requests", "Executions asked for.", cache, service_name=HISTORY).labels(
            "mutablestate"
        )
        self.cache_miss: Counter = registry.counter("cache_miss", "Executions that had to be loaded.", cache, service_name=HISTORY).labels(
            "mutablestate"
        )
        self.cache_size: Gauge = registry.gauge("cache_size", "Bytes the cache may hold.", cache, service_name=HISTORY).labels(
            "mutablestate"
        )
        self.cache_usage: Gauge = registry.gauge("cache_usage", "Bytes the cache holds.", cache, service_name=HISTORY).labels(
            "mutablestate"
        )

    def committed(self, rows: int, executions: Mapping[int, Changed], journal: Sequence[Appended], seconds: float) -> None:
        """A commit has become durable; see the engine's observer."""
        self._commits.inc()
        self._commit_latency.observe(seconds)
        self.commit_rows.observe(rows)
        self.commit_executions.observe(len(executions))
        known = self._transitions
        for row in journal:
            namespace_id = executions[row.uid].key.namespace_id
            transitions = known.get(namespace_id)
            if transitions is None:
                transitions = known[namespace_id] = self.state_transition_count.labels(self.namespace_name(namespace_id))
            transitions.observe(row.sequence)

    def show_cache(self, caches: Iterable[Executions]) -> None:
        """Bring what is said about the cache up to date. caches: all that there are; their counts only grow."""
        requests = misses = limit = used = 0
        for cache in caches:
            requests += cache.hits + cache.misses
            misses += cache.misses
            limit += cache.limit
            used += cache.size
        self.cache_requests.value, self.cache_miss.value = requests, misses
        self.cache_size.set(limit)
        self.cache_usage.set(used)

    def commit_failed(self) -> None:
        """A commit has not become durable."""
        self._commits.inc()
        self._commit_errors.inc()
