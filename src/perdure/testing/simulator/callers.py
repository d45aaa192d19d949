"""What everybody who calls a simulated server from outside has in common."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest

from perdure.core.errors import ApiError
from perdure.core.ids import IdSource
from perdure.testing.simulated_network import SimulatedNetwork, is_lost
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.lineage import is_reset
from perdure.testing.simulator.programs import payloads
from perdure.testing.simulator.replay import NAMESPACE

Runs = list[tuple[str, str]]
"""(workflow id, run id) of runs that somebody was told of."""


ATTEMPTS = (1, 3, 6)


class Caller:
    """Calls as SDKs make them. runs: shared by all callers of a simulation; what they learn of is added."""

    def __init__(self, network: SimulatedNetwork, rng: random.Random, ids: IdSource, auditor: Auditor, runs: Runs) -> None:
        self._network = network
        self._rng = rng
        self._ids = ids
        self._auditor = auditor
        self._runs = runs

    async def _call(self, method: str, request: Any, timeout: float = 10.0, attempts: int = 0) -> Any:
        """Like an SDK: the same request again while nothing is known of its outcome. attempts: at most so many, 0 for some number.

        Raises the last ApiError.
        """
        attempts = attempts or self._rng.choice(ATTEMPTS)
        while True:
            try:
                # By this name histories have no events that may yet turn out never to have been.
                return await self._network.call(method, request, timeout, "temporal-cli")
            except ApiError as error:
                attempts -= 1
                if not is_lost(error) or attempts == 0:
                    raise
            await asyncio.sleep(self._rng.random())

    async def _think(self) -> None:
        """A pause between two calls: often none, sometimes seconds."""
        await asyncio.sleep(self._rng.choice((0.0, 0.001, 0.3, 2.0, 10.0)) * self._rng.random())

    def _execution(self) -> WorkflowExecution:
        """A run that is known, or whatever run is current under its workflow id."""
        workflow_id, run_id = self._rng.choice(self._runs)
        return WorkflowExecution(workflow_id=workflow_id, run_id=run_id if self._rng.random() < 0.5 else "")

    async def _send_signal(self, workflow_id: str, run_id: str) -> None:
        """A signal that is told from all others by its input. With the run id: its repetition must not reach the next run."""
        request = SignalWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id), signal_name="note",
            input=payloads(self._ids.uuid()), request_id=self._ids.uuid(), identity="client",
        )  # fmt: skip
        await self._call("SignalWorkflowExecution", request)

    def _saw(self, run_id: str, events: Sequence[HistoryEvent], *, is_certain: bool) -> str:
        """Take note of a page of history.

        run_id: whose history it is, as far as it is known from the pages before; is_certain: because the caller has asked for that run.
        Returns the run id as far as it is known now. A history that was reset begins as that of another run: until the event that says so.
        """
        if is_certain:
            self._auditor.saw(run_id, events)
            return run_id
        begin = end = 0
        for index, event in enumerate(events):
            if event.event_id == 1:
                run_id = event.workflow_execution_started_event_attributes.original_execution_run_id
            elif is_reset(event):
                self._auditor.saw(run_id, events[begin:end])
                run_id, begin = event.workflow_task_failed_event_attributes.new_run_id, end
            if event.event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                end = index + 1  # what started may have been started by the reset that comes next
        if run_id:
            self._auditor.saw(run_id, events[begin:end])
        return run_id
