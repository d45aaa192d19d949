"""Waiting for a run to change."""

from __future__ import annotations

from collections.abc import Callable

from perdure.core.call import Call
from perdure.core.errors import ApiError, Code
from perdure.engine.live import AnyExecution
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices


class Patience:
    """How long one call waits: the server's long poll, or less if the caller's own deadline comes first, or the server stops. Use it
    as a context manager.

    long_poll: nanoseconds.
    """

    def __init__(self, services: WorkflowServices, call: Call, long_poll: int) -> None:
        self._clock = services.clock
        self._waits = services.engine.waits
        self._deadline = call.deadline
        self._held: list[AnyExecution] = []
        self.until = self._clock.now() + long_poll
        if call.deadline is not None:
            self.until = min(self.until, call.deadline)

    def __enter__(self) -> Patience:
        return self

    def __exit__(self, *_: object) -> None:
        for execution in self._held:
            execution.pins -= 1

    def hold(self, execution: AnyExecution) -> None:
        """Keep a run in memory as long as the call waits: what it waits for may be nowhere else."""
        execution.pins += 1
        self._held.append(execution)

    @property
    def is_over(self) -> bool:
        """Whether the server's time is over. Raises ApiError DEADLINE_EXCEEDED when it is the caller's."""
        now = self._clock.now()
        if self._deadline is not None and now >= self._deadline:
            raise ApiError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        return now >= self.until or self._waits.are_over

    @property
    def is_cut_short(self) -> bool:
        """Whether the server is about to stop."""
        return self._waits.are_over

    async def next_change(self, execution: WorkflowExecution, wanted: Callable[[int], bool] | None = None) -> None:
        """Wait until the run has changed (durably), or it has left memory, or the time is over. Load the run anew afterwards.

        wanted: says whether a change is worth waking up for, given the id of the last durable event.
        """
        changed = execution.watch(wanted)

        def stop() -> None:
            if not changed.done():
                changed.set_result(None)

        alarms = (self._clock.call_at(self.until, stop), self._waits.on_end(stop))
        execution.pins += 1
        try:
            await changed
        finally:
            for alarm in alarms:
                alarm.cancel()
            execution.pins -= 1
