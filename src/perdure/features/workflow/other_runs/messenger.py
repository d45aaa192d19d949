"""Messages between executions: neither lost nor doubled.

A message is an effect job that follows from the sender's state for as long as its outcome is not recorded there. So it is sent again after
a restart, and after every failure. The receiver takes it once: what it records carries the message's id. Then the outcome is recorded at
the sender, which ends the job. A crash between any two of these steps leads to a repetition that the receiver recognizes.

The receiver is addressed by workflow id, mostly: a repetition may meet a later run than the first delivery did. If that run began after the
message was written, the runs before it are asked too; if it is older, no other can have had the message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from perdure.core.clock import MILLISECOND, SECOND
from perdure.core.errors import ApiError, Code
from perdure.core.execution import ChainKey, RunKey
from perdure.core.jobs import EffectJob
from perdure.engine.transaction import Transaction
from perdure.engine.upkeep import until
from perdure.features.workflow.services import WorkflowServices, step_of
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.store.protocol import StoreError

log = logging.getLogger(__name__)

R = TypeVar("R")
Handler = Callable[[RunKey, WorkflowState, Any], Awaitable[None]]

FIRST_PAUSE = 50 * MILLISECOND
LONGEST_PAUSE = 10 * SECOND

TRY_AGAIN = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED})
"""What a receiver may answer now and not later."""


class _LookBack:
    """An earlier run may have had the message."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


class Messenger:
    """Sends the messages of workflow runs."""

    def __init__(self, services: WorkflowServices) -> None:
        self.services = services
        self._handlers: dict[type[EffectJob], Handler] = {}
        self._under_way: dict[tuple[RunKey, EffectJob], asyncio.Future[None]] = {}

    def register(self, job_type: type[EffectJob], handler: Handler) -> None:
        """handler(sender, its state, job): delivers the message and records the outcome; may raise ApiError to have it tried again."""
        self._handlers[job_type] = handler
        self.services.engine.effects.register(job_type, self.send)

    def send(self, key: RunKey, job: EffectJob) -> None:
        """Begin to send a message, unless it is under way already."""
        if (key, job) not in self._under_way:
            self._under_way[key, job] = asyncio.get_running_loop().create_future()
            self.services.engine.partition_of(key.chain).spawn(self._send(key, job))

    async def ended(self, key: RunKey, job: EffectJob) -> None:
        """Wait until a message is not under way (any more): nothing of it can happen from then on."""
        future = self._under_way.get((key, job))
        if future is not None:
            await asyncio.shield(future)

    async def _send(self, key: RunKey, job: EffectJob) -> None:
        pause = FIRST_PAUSE
        try:
            while not await self._attempt(key, job):
                await until(self.services.clock, self.services.clock.now() + pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._under_way.pop((key, job)).set_result(None)

    async def _attempt(self, key: RunKey, job: EffectJob) -> bool:
        """Whether the message needs no further attempt."""
        try:
            sender = await self.services.engine.read(key.chain, key.run_id)
            if sender is not None and job.is_current(sender.state, sender.volatile):
                await self._handlers[type(job)](key, sender.state, job)
            return True
        except (ApiError, StoreError) as error:
            log.warning("cannot deliver %s of %s yet: %s", type(job).__name__, key.business_id, error)
        except Exception:
            log.exception("%s of %s failed", type(job).__name__, key)
        return False

    async def deliver(
        self, chain: ChainKey, run_id: str, since: int, got: Callable[[WorkflowState], R | None], decide: Callable[[Transaction], R]
    ) -> R:
        """Apply a message to a run (the current one without run id), unless a run has had it already.

        since: when the message was written. got: the outcome, if this run has had the message. decide: applies it; may refuse by ApiError.
        """
        cleared: set[str] = set()

        def look(transaction: Transaction) -> R | _LookBack:
            run = transaction.run
            if run is None:
                return decide(transaction)
            state: WorkflowState = run.state
            outcome = got(state)
            if outcome is not None:
                return outcome
            earlier = state.previous_run_id
            if earlier and not run_id and state.start_at >= since and earlier not in cleared:
                return _LookBack(earlier)
            return decide(transaction)

        while True:
            result = await self.services.engine.transact(chain, run_id or None, look)
            if not isinstance(result, _LookBack):
                return result
            outcome = await self._earlier_outcome(chain, result.run_id, since, got)
            if outcome is not None:
                return outcome
            cleared.add(result.run_id)

    async def _earlier_outcome(self, chain: ChainKey, run_id: str, since: int, got: Callable[[WorkflowState], R | None]) -> R | None:
        """Closed runs do not change: what they have not got, they never will."""
        while run_id:
            run = await self.services.engine.read(chain, run_id)
            if run is None:
                return None
            state: WorkflowState = run.state
            outcome = got(state)
            if outcome is not None or state.start_at < since:
                return outcome
            run_id = state.previous_run_id
        return None

    async def record(self, key: RunKey, decide: Callable[[WorkflowStep], None]) -> None:
        """Record an outcome at the sender, if it still exists."""

        def with_step(transaction: Transaction) -> None:
            if transaction.run is not None:
                decide(step_of(transaction, transaction.run))

        await self.services.engine.transact(key.chain, key.run_id, with_step)
