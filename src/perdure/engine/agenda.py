"""When the jobs of the executions in memory run: at their time, once what they depend on is durable, while the store can keep up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from perdure.core.clock import SECOND, Clock
from perdure.core.execution import RunKey, all_jobs
from perdure.core.jobs import EffectJob, Job, PureJob
from perdure.engine.live import AnyExecution
from perdure.engine.timers import Timers
from perdure.engine.writer import Group, Writer

FULL_RETRY = SECOND // 4
"""So much later a timer that is due is tried again, while so much waits to be committed that nothing may be added."""


class Effects(Protocol):
    """Carries out effect jobs. Must not raise and must not block; what it has to wait for runs in a task of its own."""

    def run(self, key: RunKey, job: EffectJob) -> None: ...


class Agenda:
    """Arranges for jobs to be performed.

    timers: where those wait whose time has not come. run_pure: applies a pure job that the state still implies.
    """

    def __init__(
        self, clock: Clock, timers: Timers, effects: Effects, run_pure: Callable[[AnyExecution, PureJob], None], writer: Writer
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._effects = effects
        self._run_pure = run_pure
        self._writer = writer
        self._is_closed = False
        self._put_off: list[tuple[AnyExecution, Job]] = []

    def close(self) -> None:
        """Perform nothing any more."""
        self._is_closed = True
        self._put_off.clear()

    def schedule(self, execution: AnyExecution, jobs: list[Job], group: Group | None) -> None:
        """Arrange for jobs to run at their time; those due at once run when their group is durable."""
        for job in jobs:
            if job in execution.scheduled:
                continue
            execution.scheduled.add(job)
            if job.at > 0:
                self._wait(execution, job, job.at)
            elif group is not None:
                group.effects.append(lambda execution=execution, job=job: self._perform(execution, job))
            else:
                self._perform_soon(execution, [job])
        if len(execution.entries) > 64 and len(execution.entries) > 2 * len(execution.scheduled):
            execution.entries = [entry for entry in execution.entries if entry.run is not None]

    def schedule_loaded(self, execution: AnyExecution) -> None:
        """Arrange for everything that an execution implies, when it has come into memory."""
        jobs = all_jobs(execution.kind, execution.state)
        jobs += [job for part in execution.kind.volatile_parts(execution.volatile) for job in part.jobs(execution.state)]
        now = self._clock.now()
        # What is due is done before the execution can leave memory again, however little room there is.
        due = sorted(dict.fromkeys(job for job in jobs if job.at <= now and job not in execution.scheduled), key=lambda job: job.at)
        execution.scheduled.update(due)
        if due:
            self._perform_soon(execution, due)
        self.schedule(execution, jobs, None)

    def _wait(self, execution: AnyExecution, job: Job, at: int) -> None:
        execution.entries.append(self._timers.add(at, lambda entry: self._due(execution, entry.job), job))

    def _due(self, execution: AnyExecution, job: Job | None) -> None:
        if job is None:
            return
        if execution.group is not None and isinstance(job, EffectJob):
            execution.group.effects.append(lambda: self._perform(execution, job))
        elif isinstance(job, PureJob) and self._writer.is_full and not execution.dropped:
            self._put_off.append((execution, job))
            if len(self._put_off) == 1:
                self._clock.call_at(self._clock.now() + FULL_RETRY, self._try_again)
        else:
            self._perform(execution, job)

    def retry(self, execution: AnyExecution, job: PureJob, after: int) -> None:
        """Perform a job again that could not be decided, so many nanoseconds later; the execution stays in memory until then."""

        def again() -> None:
            execution.pins -= 1
            self._due(execution, job)

        execution.pins += 1
        execution.scheduled.add(job)
        self._clock.call_at(self._clock.now() + after, again)

    def _try_again(self) -> None:
        put_off, self._put_off = self._put_off, []
        now = self._clock.now()
        for execution, job in put_off:
            if job.at > now and not execution.dropped:  # the clock was set back meanwhile
                self._wait(execution, job, job.at)
            else:
                self._due(execution, job)

    def _perform_soon(self, execution: AnyExecution, jobs: list[Job]) -> None:
        """Perform jobs in the next turn of the event loop; the execution stays in memory until then."""

        def perform() -> None:
            execution.pins -= 1
            for job in jobs:
                self._due(execution, job)

        execution.pins += 1
        asyncio.get_running_loop().call_soon(perform)

    def _perform(self, execution: AnyExecution, job: Job) -> None:
        execution.scheduled.discard(job)
        if execution.dropped or self._is_closed:
            return
        if isinstance(job, PureJob):
            if job.is_current(execution.state, execution.volatile):
                self._run_pure(execution, job)
            else:
                self._ask_again(execution, job)
        elif isinstance(job, EffectJob) and job.is_current(execution.state, execution.volatile):
            self._effects.run(execution.key, job)

    def _ask_again(self, execution: AnyExecution, job: PureJob) -> None:
        """A part whose times only move away (heartbeats) is not touched each time they do: it is asked again when its old job comes up."""
        part = job.part_in(execution.state, execution.volatile)
        if part is not None:
            self.schedule(execution, [later for later in part.jobs(execution.state) if isinstance(later, PureJob)], None)
