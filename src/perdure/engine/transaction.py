"""A transaction: one intent applied to one chain, synchronously.

Usually it steps one run; starting over a running one, continuing as new or resetting steps one run and creates another in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.core.execution import ChainKey, Kind, RunKey
from perdure.core.ids import IdSource
from perdure.core.step import AnyStep, no_transaction
from perdure.engine.live import AnyExecution, Chain, Execution
from perdure.store.protocol import SLOTS, Header, JournalRow


class Transaction:
    """What a decision gets.

    now: nanoseconds since the epoch. chain, run: `run` is the run that was asked for (by run id, or the current one), None when there is
    none.
    """

    def __init__(self, chain: Chain, run: AnyExecution | None, now: int, ids: IdSource, new_uid: Callable[[], int]) -> None:
        self.now = now
        self.ids = ids
        self.chain = chain
        self.run = run
        self.steps: dict[int, AnyStep] = {}
        self.executions: dict[int, AnyExecution] = {}
        self.created: set[int] = set()
        #: Of runs that were forked from another: the journal rows that they begin with.
        self.copied: dict[int, list[JournalRow]] = {}
        self.superseded: list[int] = []
        self.effects: list[Callable[[], None]] = []
        self._new_uid = new_uid
        self._replaced: list[Header] = []

    @property
    def key(self) -> ChainKey:
        return self.chain.key

    @property
    def current(self) -> AnyExecution | None:
        """The chain's current run, if it is in memory (the engine loads it before it decides)."""
        run_id = self.chain.current_run_id
        return self.chain.runs.get(run_id) if run_id else None

    def step(self, execution: AnyExecution) -> AnyStep:
        """The step of a run in this transaction; always the same one for the same run."""
        step = self.steps.get(execution.uid)
        if step is None:
            kind: Kind[Any, Any] = execution.kind
            step = kind.step(execution.key, execution.state, execution.volatile, self.now, self.ids)
            step.begin_run = lambda run_id: self.create(kind, run_id)
            self.steps[execution.uid] = step
            self.executions[execution.uid] = execution
        return step

    def create(self, kind: Kind[Any, Any], run_id: str, *, current: bool = True) -> AnyStep:
        """Begin a new run of this chain. current: it takes over from the chain's present current run."""
        key = RunKey(*self.chain.key, run_id)
        header = Header(
            uid=self._new_uid(), slot=self.chain.key.slot(SLOTS), namespace_id=key.namespace_id, kind=key.kind, business_id=key.business_id,
            run_id=run_id, is_current=current, type_name="", task_queue="", status=0, start_at=self.now, execution_at=self.now,
        )  # fmt: skip
        execution: AnyExecution = Execution(kind, key, header, kind.new_state(), kind.new_volatile())
        previous = self.current
        if current:
            if previous is not None:
                self.superseded.append(previous.uid)
                self._replaced.append(previous.header)
                previous.header.is_current = False
            self.chain.current_run_id = run_id
        self.chain.runs[run_id] = execution
        self.created.add(execution.uid)
        step = self.step(execution)
        if current and previous is not None:
            step.previous_run_id, step.previous_state = previous.key.run_id, previous.state
        return step

    def fork(self, kind: Kind[Any, Any], run_id: str, rows: Sequence[JournalRow], state: Any) -> AnyStep:
        """Begin a new current run whose journal begins with rows of another one.

        rows: complete from sequence 1; their uid is replaced. state: their fold, which the new run takes over.
        """
        step = self.create(kind, run_id)
        execution = self.chain.runs[run_id]
        execution.state = step.state = state
        step.first_event_id = kind.next_event_id(state)
        self.copied[execution.uid] = [
            JournalRow(execution.uid, row.sequence, row.first_event_id, row.event_count, row.events, row.notes) for row in rows
        ]
        return step

    def close(self) -> None:
        """It is over. Its steps forget it: objects that hold each other would have to be found by the garbage collector."""
        for step in self.steps.values():
            step.begin_run = no_transaction

    def undo(self) -> None:
        """It did not happen: take back what it changed beside the states. A header may be written yet, with what came before."""
        for step in self.steps.values():
            step.undo()
        for header in self._replaced:
            header.is_current = True

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Call something once the transaction is durable. Must be quick and must not raise."""
        self.effects.append(effect)
