"""Looks at every step of an engine: does what is in memory follow from the journal, and does everything that is pending lead to its job?

Switched on in every functional test and in the simulator; far too slow for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.core.execution import all_jobs
from perdure.core.jobs import EffectJob, Job
from perdure.engine.engine import Engine
from perdure.engine.live import AnyExecution
from perdure.engine.loader import fold
from perdure.store.protocol import Header, JournalRow

EVERY_STEP_UNTIL = 200
"""Executions with more journal rows are looked at every so often only: looking costs as much as the whole state is big."""
THEN_EVERY = 16


@dataclass(slots=True)
class _Shadow:
    """What the journal alone makes of an execution.

    jobs: implied after the step before; None: not looked at. volatile_jobs: implied by what is in memory only, when it last changed.
    """

    execution: AnyExecution
    state: Any
    jobs: set[Job] | None
    volatile_jobs: set[Job] | None = field(default_factory=set[Job])


class Inspector:
    """Collects what is wrong in :attr:`failures`; it never raises, because a test's engine has to go on."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.steps = 0
        self._shadows: dict[int, _Shadow] = {}
        #: What has left memory and has not changed since: (sequence, state).
        self._evicted: dict[int, tuple[int, bytes]] = {}

    def attach(self, engine: Engine) -> None:
        """Look at every step of this engine from now on; it must have been started."""
        for partition in engine.partitions:
            partition.recorder.inspector = self

    def verify(self) -> None:
        """Raises AssertionError when anything was wrong."""
        if self.failures:
            raise AssertionError(f"{len(self.failures)} broken invariants, the first of them:\n" + "\n".join(self.failures[:5]))

    def loaded(self, execution: AnyExecution) -> None:
        """An execution came into memory: its state is the fold of its journal, and what it was when it left."""
        kind = execution.kind
        sequence, left = self._evicted.pop(execution.uid, (-1, b""))
        if sequence == execution.sequence:
            self._compare(execution, kind.decode_state(left), "what was read back is not what left memory")
        copy = kind.decode_state(kind.encode_state(execution.state))
        self._compare(execution, copy, "a snapshot does not bring back the state")
        jobs, volatile_jobs = set(all_jobs(kind, execution.state)), _volatile_jobs(execution)
        self._shadows[execution.uid] = _Shadow(execution, copy, jobs, volatile_jobs)
        self._look_at_jobs(execution, jobs | volatile_jobs, set())
        self._look_at_header(execution, jobs)

    def evicted(self, execution: AnyExecution) -> None:
        """An execution is about to leave memory; whoever loads it has to find the same state."""
        self._evicted[execution.uid] = (execution.sequence, execution.kind.encode_state(execution.state))

    def forked(self, execution: AnyExecution, rows: Sequence[JournalRow]) -> None:
        """An execution begins with rows of another one's journal."""
        shadow = self._shadows[execution.uid] = _Shadow(execution, execution.kind.new_state(), set())
        for row in rows:
            self._fold(execution, shadow.state, row)

    def stepped(self, execution: AnyExecution, row: JournalRow | None, side: Mapping[str, bytes | None]) -> None:
        """A step was applied. row: what it adds to the journal."""
        self.steps += 1
        self._evicted.pop(execution.uid, None)
        kind = execution.kind
        shadow = self._shadows.get(execution.uid)
        if shadow is None or shadow.execution is not execution:
            if row is not None and row.sequence == 1:
                shadow = _Shadow(execution, kind.new_state(), set())
            else:
                shadow = _Shadow(execution, None, None, None)
            self._shadows[execution.uid] = shadow
        if shadow.state is None:
            shadow.state = kind.decode_state(kind.encode_state(execution.state))  # it was there before the inspector was
            return
        if row is not None:
            self._fold(execution, shadow.state, row)
        for name, data in side.items():
            kind.apply_side(shadow.state, name, data, lambda part: None)
        if execution.sequence > EVERY_STEP_UNTIL and execution.sequence % THEN_EVERY:
            shadow.jobs = None
            return
        self._compare(execution, shadow.state, "folding the journal does not give the live state")
        jobs = set(all_jobs(kind, execution.state))
        self._look_at_jobs(execution, jobs, shadow.jobs)
        self._look_at_header(execution, jobs)
        shadow.jobs = jobs

    def volatile_changed(self, execution: AnyExecution) -> None:
        """A step has changed what is in memory only."""
        shadow = self._shadows.get(execution.uid)
        if shadow is not None and shadow.execution is execution:
            jobs = _volatile_jobs(execution)
            self._look_at_jobs(execution, jobs, shadow.volatile_jobs)
            shadow.volatile_jobs = jobs

    def _fold(self, execution: AnyExecution, state: Any, row: JournalRow) -> None:
        kind = execution.kind
        before = kind.next_event_id(state)
        fold(kind, state, row)
        after = kind.next_event_id(state)
        if (row.first_event_id, row.event_count) != (before, after - before):
            self._fail(execution, f"event ids {row.first_event_id} + {row.event_count} do not continue {before}, or do not lead to {after}")

    def _compare(self, execution: AnyExecution, state: Any, what: str) -> None:
        kind = execution.kind
        if kind.encode_state(execution.state, deterministic=True) != kind.encode_state(state, deterministic=True):
            self._fail(execution, f"{what}: {_difference(execution.state, state)}")

    def _look_at_jobs(self, execution: AnyExecution, jobs: set[Job], before: set[Job] | None) -> None:
        """Every job that the state implies is waiting for its time, or its part is asked again earlier. An effect may have had its time
        before this step."""
        for job in jobs:
            if job in execution.scheduled or (isinstance(job, EffectJob) and (before is None or job in before)):
                continue
            state, volatile = execution.state, execution.volatile
            part = job.part_in(state, volatile)
            if not any(earlier.at <= job.at and earlier.part_in(state, volatile) is part for earlier in execution.scheduled):
                self._fail(execution, f"{job} is implied by the state but not scheduled: an applier did not touch its part")

    def _look_at_header(self, execution: AnyExecution, jobs: set[Job]) -> None:
        if problem := header_problem(execution.header, jobs):
            self._fail(execution, problem)

    def _fail(self, execution: AnyExecution, problem: str) -> None:
        self.failures.append(f"{execution.key.business_id}/{execution.key.run_id} at {execution.sequence}: {problem}")


def _volatile_jobs(execution: AnyExecution) -> set[Job]:
    """Every job that what is in memory only implies."""
    return {job for part in execution.kind.volatile_parts(execution.volatile) for job in part.jobs(execution.state)}


def header_problem(header: Header, jobs: set[Job]) -> str:
    """Why a header would not lead back to these jobs after a restart; "" when it does."""
    if not header.ready and any(job.at == 0 for job in jobs):
        return f"the header is not ready, but there is {next(job for job in jobs if job.at == 0)}"
    # A ready execution is found by its header whatever the time; an effect that had its time needs no more.
    wake_at = None if header.ready else min((job.at for job in jobs if job.at > 0), default=None)
    if wake_at is not None and (header.wake_at is None or header.wake_at > wake_at):
        return f"the header wakes up at {header.wake_at}, but there is {min((j for j in jobs if j.at == wake_at), key=repr)}"
    return ""


def sleeper_problem(header: Header, jobs: set[Job], now: int) -> str:
    """Why a run that is not in memory would miss a time of its, although the server goes on; "" when it does not.

    That a header is ready leads back to its run after a restart only. Effects that had their time wait for a worker.
    """
    waiting = [job for job in jobs if job.at > (now if isinstance(job, EffectJob) else 0)]
    first = min(waiting, key=lambda job: (job.at, repr(job)), default=None)
    if first is not None and (header.wake_at is None or header.wake_at > first.at):
        return f"its header wakes it up at {header.wake_at}, but there is {first}"
    return ""


def _difference(live: Any, folded: Any) -> str:
    """The fields that differ."""
    fields: tuple[str, ...] = getattr(live, "__struct_fields__", ())
    different = [f"{f}: live {getattr(live, f)!r}, folded {getattr(folded, f)!r}" for f in fields if getattr(live, f) != getattr(folded, f)]
    return "; ".join(different)[:2000] or "equal but for their encoding"
