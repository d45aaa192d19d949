"""Jobs: deferred work as a function of state.

A *part* of a state (its workflow task, one activity, one timer …) says which jobs it implies. Jobs are kept in memory only, never
cancelled: a job that is no longer implied by the state when its time comes is dropped. After a reload they are derived again.

What an execution has in memory only (its volatile state) may imply jobs too; they are lost with it. They are treated alike, but for two
things: a step says with :meth:`perdure.core.step.Step.touch_volatile` that they may have changed, and they find their part in the volatile
state (:meth:`Job.part_in`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from perdure.core.step import Step


class Part(Protocol):
    """A part of a state that implies jobs."""

    def jobs(self, state: Any) -> Iterable[Job]:
        """Every job that this part implies now. Must be cheap: it is asked after every step that touched the part."""
        ...


class Job(msgspec.Struct, frozen=True, gc=False):
    """at: not before this time (nanoseconds since the epoch), 0 for at once. Two equal jobs are the same work."""

    at: int

    def part(self, state: Any) -> Part | None:
        """The part of the state that implies this job, if it still exists."""
        raise NotImplementedError

    def part_in(self, state: Any, volatile: Any) -> Part | None:
        """Like :meth:`part`; jobs of what is in memory only look into the volatile state instead."""
        return self.part(state)

    def is_current(self, state: Any, volatile: Any) -> bool:
        """Whether the state still implies this job."""
        part = self.part_in(state, volatile)
        return part is not None and self in part.jobs(state)


class PureJob(Job, frozen=True):
    """Changes state and does no I/O: a timer fires, a timeout strikes. :func:`decides` registers what it does."""

    def decide(self, step: Step[Any, Any]) -> None:
        """Record what happens now. Called only while the job is current."""
        _DECISIONS[type(self)](step, self)


_DECISIONS: dict[type[PureJob], Callable[[Any, Any], None]] = {}

J = TypeVar("J", bound=PureJob)


def decides(job_type: type[J]) -> Callable[[Callable[[Any, J], None]], Callable[[Any, J], None]]:
    """Register the decision of a pure job. Raises ValueError for a second one."""

    def register(decision: Callable[[Any, J], None]) -> Callable[[Any, J], None]:
        if job_type in _DECISIONS:
            raise ValueError(f"two decisions for {job_type.__name__}")
        _DECISIONS[job_type] = decision
        return decision

    return register


class EffectJob(Job, frozen=True):
    """Does I/O and changes no state: hands a task to matching, sends a message. Its outcome returns as a new intent."""
