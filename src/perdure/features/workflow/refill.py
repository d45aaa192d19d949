"""Brings tasks back that a full queue turned away: the executions that own them are found by their headers."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from perdure.core.execution import ChainKey, RunKey, all_jobs
from perdure.core.jobs import EffectJob
from perdure.engine.live import AnyExecution
from perdure.engine.partition import Partition
from perdure.features.workflow.jobs import DispatchActivityTask, DispatchWorkflowTask
from perdure.features.workflow.services import WorkflowServices
from perdure.matching.task_queue import TaskQueue
from perdure.store.protocol import Header, StoreError

log = logging.getLogger(__name__)

BATCH = 500
DISPATCHES = (DispatchWorkflowTask, DispatchActivityTask)


class Refill:
    """Goes round the executions that have work to hand out, from where it stopped last, until every queue that wanted tasks has enough."""

    def __init__(self, services: WorkflowServices) -> None:
        self._services = services
        self._wanting: set[TaskQueue] = set()
        self._next: set[TaskQueue] = set()
        self._stopped_at: dict[int, int] = {}
        self._is_running = False
        services.matching.on_room = self.begin

    def begin(self, queue: TaskQueue) -> None:
        """A queue has room again."""
        self._next.add(queue)
        if not self._is_running:
            self._is_running = True
            self._services.engine.partitions[0].spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._next:
                self._wanting, self._next = self._next, set()
                for partition in self._services.engine.partitions:
                    await self._go_round(partition)
                for queue in self._wanting:
                    queue.refilled()
        except StoreError as error:
            log.warning("cannot look for waiting work: %s; the next free queue tries again", error)
        finally:
            self._is_running = False

    async def _go_round(self, partition: Partition) -> None:
        start = after = self._stopped_at.get(partition.number, 0)
        is_past_end = False
        while True:
            headers = await self._services.engine.store.find_ready(partition.slots, after, BATCH)
            for header in headers:
                after = header.uid
                if is_past_end and after > start:
                    return
                await self._offer(partition, header)
                if all(queue.is_full for queue in self._wanting):
                    self._stopped_at[partition.number] = after
                    return
            if len(headers) < BATCH:
                if is_past_end or not start:
                    self._stopped_at[partition.number] = 0
                    return
                is_past_end, after = True, 0

    async def _offer(self, partition: Partition, header: Header) -> None:
        key = RunKey(header.namespace_id, header.kind, header.business_id, header.run_id)
        chain = partition.cache.chains.get(ChainKey(header.namespace_id, header.kind, header.business_id))
        if chain is None or key.run_id not in chain.runs:
            chain = await partition.loader.chain(key.chain, key.run_id)
        execution = chain.runs.get(key.run_id)
        if execution is None:
            return
        with ExitStack() as refilling:
            for queue in self._wanting:
                refilling.enter_context(queue.refilling())
            for job in self._due(execution):
                self._services.engine.effects.run(key, job)
        partition.cache.trim()

    def _due(self, execution: AnyExecution) -> list[EffectJob]:
        now = self._services.clock.now()
        return [job for job in all_jobs(execution.kind, execution.state) if isinstance(job, DISPATCHES) and job.at <= now]
