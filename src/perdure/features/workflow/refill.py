"""Brings tasks back that a full queue turned away: the executions that own them are asked for them again."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from perdure.core.clock import SECOND
from perdure.core.errors import ApiError
from perdure.core.execution import all_jobs
from perdure.core.jobs import EffectJob
from perdure.engine.live import AnyExecution
from perdure.engine.upkeep import until
from perdure.features.workflow.jobs import DispatchActivityTask, DispatchWorkflowTask
from perdure.features.workflow.services import WorkflowServices
from perdure.matching.task_queue import TaskQueue
from perdure.store.protocol import StoreError

log = logging.getLogger(__name__)

DISPATCHES = (DispatchWorkflowTask, DispatchActivityTask)

RETRY_AFTER = 1 * SECOND
"""When the store could not be read. No queue asks a second time: it relies on being filled."""


class Refill:
    """Lets executions offer their tasks until every queue that wanted some has enough."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services
        self._wanting: set[TaskQueue] = set()
        self._next: set[TaskQueue] = set()
        self._is_running = False
        services.matching.on_room = self.begin

    def begin(self, queue: TaskQueue) -> None:
        """A queue has room again."""
        self._next.add(queue)
        if not self._is_running:
            self._is_running = True
            self._services.engine.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._next:
                self._wanting, self._next = self._next, set()
                try:
                    await self._services.engine.go_round(self._offer, self._is_enough)
                except (StoreError, ApiError) as error:
                    log.warning("cannot look for waiting work: %s; trying again", error)
                    self._next |= self._wanting
                    await until(self._services.clock, self._services.clock.now() + RETRY_AFTER)
                    continue
                for queue in self._wanting:
                    queue.refilled()
        finally:
            self._is_running = False

    def _is_enough(self) -> bool:
        return all(queue.is_full for queue in self._wanting)

    def _offer(self, execution: AnyExecution) -> None:
        with ExitStack() as refilling:
            for queue in self._wanting:
                refilling.enter_context(queue.refilling())
            for job in self._due(execution):
                self._services.engine.effects.run(execution.key, job)

    def _due(self, execution: AnyExecution) -> list[EffectJob]:
        now = self._services.clock.now()
        return [job for job in all_jobs(execution.kind, execution.state) if isinstance(job, DISPATCHES) and job.at <= now]
