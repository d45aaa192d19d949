"""Journal rows that may become durable later than the answer they belong to.

Only one kind of answer may leave before what it rests on is durable: a workflow task, which may be handed out again. That it was started
is written together with the next change of its execution, which is most often its completion, and after :data:`TRAIL` at the latest. A
server that dies in between has never started it: the task is found in the journal as it was before, and handed out again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.core.clock import SECOND, Alarm, Clock
from perdure.core.jobs import Job
from perdure.store.protocol import JournalRow

if TYPE_CHECKING:
    from perdure.engine.live import AnyExecution

TRAIL = 1 * SECOND
"""So long a row waits for company. Most tasks are done by then; one that takes longer should survive a restart of the server."""


class Trail:
    """What trails behind one execution: rows, and the jobs that its header has to lead back to once they are written."""

    __slots__ = ("jobs", "rows")

    def __init__(self) -> None:
        self.rows: list[JournalRow] = []
        self.jobs: list[Job] = []


class Trailing:
    """The executions of a partition that have trailing rows.

    write(execution): hands its trailing rows to the writer.
    """

    def __init__(self, clock: Clock, write: Callable[[AnyExecution], None]) -> None:
        self._clock = clock
        self._write = write
        self._executions: dict[int, AnyExecution] = {}
        self._alarm: Alarm | None = None

    def __len__(self) -> int:
        return len(self._executions)

    def add(self, execution: AnyExecution, row: JournalRow, jobs: list[Job]) -> None:
        """A row of an execution, and the jobs it brings, shall trail."""
        trail = execution.trail
        if trail is None:
            trail = execution.trail = Trail()
            self._executions[execution.uid] = execution
            if self._alarm is None:
                self._alarm = self._clock.call_at(self._clock.now() + TRAIL, self._due)
        trail.rows.append(row)
        trail.jobs += jobs

    def take(self, execution: AnyExecution) -> Trail | None:
        """What trailed behind an execution; nothing does from now on."""
        trail, execution.trail = execution.trail, None
        if trail is not None:
            self._executions.pop(execution.uid, None)
        return trail

    def write_all(self) -> None:
        """Nothing trails from now on. Some rows have waited for less than their time: they are few, and one alarm for all is cheap."""
        for execution in list(self._executions.values()):
            self._write(execution)

    def _due(self) -> None:
        self._alarm = None
        self.write_all()

    def close(self) -> None:
        """Write nothing any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
