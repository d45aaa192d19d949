"""Effect jobs of workflow runs: tasks go to their queues."""

from __future__ import annotations

from temporalio.api.common.v1 import Priority

from perdure.core.clock import SECOND
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob
from perdure.engine.engine import EffectRegistry
from perdure.features.workflow.jobs import DispatchActivityTask, DispatchSpeculativeTask, DispatchWorkflowTask
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices
from perdure.features.workflow.validation import merge_priority
from perdure.matching.backlog import ACTIVITY_QUEUE, WORKFLOW_QUEUE
from perdure.matching.task_queue import DEFAULT_PRIORITY, QueueKey, Task

STICKY_POLLER_WITHIN = 10 * SECOND
"""A sticky queue that nobody has polled for so long is taken for abandoned: its worker is gone."""


class WorkflowEffects:
    """Carries out what workflow runs want done outside of themselves."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services

    def register(self, effects: EffectRegistry) -> None:
        effects.register(DispatchWorkflowTask, self.dispatch_workflow_task)
        effects.register(DispatchSpeculativeTask, self.dispatch_workflow_task)
        effects.register(DispatchActivityTask, self.dispatch_activity_task)

    def _execution(self, key: RunKey) -> WorkflowExecution | None:
        chain = self._services.engine.partition_of(key.chain).cache.chains.get(key.chain)
        return chain.runs.get(key.run_id) if chain is not None else None

    def dispatch_workflow_task(self, key: RunKey, job: DispatchWorkflowTask | DispatchSpeculativeTask) -> None:
        execution = self._execution(key)
        if execution is None:
            return
        state = execution.state
        task = execution.volatile.speculative or state.task
        matching = self._services.matching
        queue = matching.queue(QueueKey(key.namespace_id, state.task_queue, WORKFLOW_QUEUE))
        if task.sticky and state.sticky_queue:
            sticky = matching.queue(QueueKey(key.namespace_id, state.sticky_queue, WORKFLOW_QUEUE))
            if sticky.has_recent_poller(STICKY_POLLER_WITHIN):
                queue = sticky
        queue.add(self._task(key, job, state.priority))

    def dispatch_activity_task(self, key: RunKey, job: DispatchActivityTask) -> None:
        execution = self._execution(key)
        activity = execution.state.activities.get(job.scheduled_event_id) if execution is not None else None
        if execution is None or activity is None:
            return
        name = activity.settings.task_queue.name
        queue = self._services.matching.queue(QueueKey(key.namespace_id, name, ACTIVITY_QUEUE))
        queue.add(self._task(key, job, merge_priority(execution.state.priority, activity.priority)))

    def _task(self, key: RunKey, job: EffectJob, priority: Priority) -> Task:
        return Task(
            key, job, self._services.clock.now(), priority=priority.priority_key or DEFAULT_PRIORITY, fairness_key=priority.fairness_key,
            fairness_weight=priority.fairness_weight or 1.0,
        )  # fmt: skip
