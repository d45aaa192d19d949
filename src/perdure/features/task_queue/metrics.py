"""Task queues in the metrics, under the official names."""

from __future__ import annotations

from typing import cast

from temporalio.api.enums.v1 import TaskQueueType

from perdure.core.clock import SECOND
from perdure.features.namespace.registry import NamespaceRegistry
from perdure.matching.matching import Matching
from perdure.matching.task_queue import QueueKey, Task, TaskQueue
from perdure.observability.metrics import Registry
from perdure.observability.server_metrics import ServerMetrics

STICKY = "__sticky__"
"""All sticky queues share this label: each worker process has one of its own."""

Labels = tuple[str, str, str]


class _QueueMetrics:
    """The metrics of one queue, or of all sticky queues of a namespace, found once. queues: how many use them."""

    __slots__ = ("labels", "latency", "queues", "success", "sync", "timeouts", "without_poller")

    def __init__(self, metrics: ServerMetrics, operation: str, labels: Labels) -> None:
        self.labels = labels
        self.queues = 0
        self.success = metrics.poll_success.labels(operation, *labels)
        self.sync = metrics.poll_success_sync.labels(operation, *labels)
        self.timeouts = metrics.poll_timeouts.labels(operation, *labels)
        self.latency = metrics.task_dispatch_latency.labels(*labels)
        self.without_poller = metrics.no_poller_tasks.labels(*labels)


class TaskQueueMetrics:
    """Satisfies :class:`perdure.matching.task_queue.Observer`; brings the gauges up to date when they are shown."""

    def __init__(self, metrics: ServerMetrics, registry: Registry, matching: Matching, namespaces: NamespaceRegistry) -> None:
        self._metrics = metrics
        self._matching = matching
        self._namespaces = namespaces
        self._known: dict[Labels, _QueueMetrics] = {}
        self._shown: set[Labels] = set()
        matching.observer = self
        registry.before_render.append(self.update)

    def dispatched(self, queue: TaskQueue, waited: int) -> None:
        self._of(queue).latency.observe(waited / SECOND)

    def poll_ended(self, queue: TaskQueue, task: Task | None) -> None:
        metrics = self._of(queue)
        if task is None:
            metrics.timeouts.inc()
            return
        metrics.success.inc()
        if task.is_sync:
            metrics.sync.inc()

    def task_without_poller(self, queue: TaskQueue) -> None:
        self._of(queue).without_poller.inc()

    def forgotten(self, queue: TaskQueue) -> None:
        """Workers may have queues of their own, with names that never come back: their metrics go with them."""
        if queue.observed is None:
            return
        known = cast(_QueueMetrics, queue.observed)
        known.queues -= 1
        if known.queues:
            return
        labels, metrics = known.labels, self._metrics
        del self._known[labels]
        for family in (metrics.poll_success, metrics.poll_success_sync, metrics.poll_timeouts):
            family.forget(_operation(labels), *labels)
        metrics.task_dispatch_latency.forget(*labels)
        metrics.no_poller_tasks.forget(*labels)

    def update(self) -> None:
        """Set the gauges: backlogs and waiting polls by queue (all sticky queues of a namespace together)."""
        totals: dict[Labels, list[float]] = {}
        for queue in self._matching.queues.values():
            total = totals.setdefault(self._labels(queue), [0, 0, 0])
            total[0] += queue.backlog_count
            total[1] = max(total[1], queue.backlog_age() / SECOND)
            total[2] += queue.waiting_pollers
        families = (self._metrics.approximate_backlog_count, self._metrics.approximate_backlog_age_seconds, self._metrics.pending_polls)
        for gone in self._shown - totals.keys():
            for family in families:
                family.forget(*gone)
        for labels, values in totals.items():
            for family, value in zip(families, values, strict=True):
                family.labels(*labels).set(value)
        self._shown = set(totals)
        self._metrics.loaded_task_queue_count.set(len(self._matching.queues))

    def _of(self, queue: TaskQueue) -> _QueueMetrics:
        if queue.observed is None:
            queue.observed = self._find(queue)
        return cast(_QueueMetrics, queue.observed)

    def _find(self, queue: TaskQueue) -> _QueueMetrics:
        labels = self._labels(queue)
        known = self._known.get(labels)
        if known is None:
            known = self._known[labels] = _QueueMetrics(self._metrics, _operation(labels), labels)
        known.queues += 1
        return known

    def _labels(self, queue: TaskQueue) -> Labels:
        key: QueueKey = queue.key
        kind = TaskQueueType.Name(key.task_type).removeprefix("TASK_QUEUE_TYPE_").capitalize()  # pyright: ignore
        return self._namespaces.name_of(key.namespace_id), STICKY if queue.is_sticky else key.name, kind


def _operation(labels: Labels) -> str:
    return f"Poll{labels[2]}TaskQueue"
