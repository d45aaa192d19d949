"""The jobs that a workflow run's state implies: data only. What they do is registered beside the concern they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.core.jobs import EffectJob, Part, PureJob

if TYPE_CHECKING:
    from perdure.features.workflow.state import WorkflowState, WorkflowVolatile


class DispatchWorkflowTask(EffectJob, frozen=True):
    """Hand the scheduled workflow task to its queue. priority_changes: tells it from the same task at the place of an earlier priority."""

    scheduled_event_id: int
    attempt: int
    priority_changes: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.task


class WorkflowTaskTimeout(PureJob, frozen=True):
    """The workflow task was not started (sticky queue) or not answered in time."""

    scheduled_event_id: int
    attempt: int
    started: bool

    def part(self, state: WorkflowState) -> Part | None:
        return state.task


class DispatchSpeculativeTask(EffectJob, frozen=True):
    """Hand the speculative workflow task to its queue. serial: tells it from those before it, which may have had the same event id."""

    serial: int

    def part_in(self, state: WorkflowState, volatile: WorkflowVolatile) -> Part | None:
        return volatile.speculative


class SpeculativeTaskTimeout(PureJob, frozen=True):
    """The speculative workflow task was not started or not answered in time."""

    serial: int
    started: bool

    def part_in(self, state: WorkflowState, volatile: WorkflowVolatile) -> Part | None:
        return volatile.speculative


class FirstTaskDue(PureJob, frozen=True):
    """The backoff before the first workflow task (start delay, cron, retry) is over."""

    def part(self, state: WorkflowState) -> Part | None:
        return state


class RunTimeout(PureJob, frozen=True):
    """The run, or the whole execution, ran out of time."""

    def part(self, state: WorkflowState) -> Part | None:
        return state


class FireTimer(PureJob, frozen=True):
    """A workflow timer is due."""

    timer_id: str
    started_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.timers.get(self.timer_id)


class DispatchActivityTask(EffectJob, frozen=True):
    """Hand an activity attempt to its queue: at once, or when its backoff is over."""

    scheduled_event_id: int
    stamp: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.activities.get(self.scheduled_event_id)


class ActivityTimeout(PureJob, frozen=True):
    """The earliest of an activity's timeouts strikes, those for heartbeats aside."""

    scheduled_event_id: int
    stamp: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.activities.get(self.scheduled_event_id)


class HeartbeatTimeout(PureJob, frozen=True, eq=False):
    """An attempt has not been heard of for so long (timeout, nanoseconds).

    Every heartbeat moves it away. So all of one attempt are the same job, and wait in the timers once: when its first time comes, it is
    asked again.
    """

    scheduled_event_id: int
    started_at: int
    timeout: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeartbeatTimeout) and self._attempt == other._attempt

    def __hash__(self) -> int:
        return hash(self._attempt)

    @property
    def _attempt(self) -> tuple[int, int, int]:
        return self.scheduled_event_id, self.started_at, self.timeout

    def part(self, state: WorkflowState) -> Part | None:
        return state.activities.get(self.scheduled_event_id)

    def is_current(self, state: WorkflowState, volatile: object) -> bool:
        part = self.part(state)
        return part is not None and any(self == job and self.at == job.at for job in part.jobs(state))


class StartChild(EffectJob, frozen=True):
    """Begin a child workflow."""

    initiated_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.children.get(self.initiated_event_id)


class AskChild(EffectJob, frozen=True):
    """A reset handed a child on: see whether it has ended, and told so only those that waited for it before."""

    initiated_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.children.get(self.initiated_event_id)


class CloseChild(EffectJob, frozen=True):
    """The parent has closed: do to the child what its parent close policy says."""

    initiated_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.children.get(self.initiated_event_id)


class ReportToParent(EffectJob, frozen=True):
    """A child has closed: tell its parent."""

    def part(self, state: WorkflowState) -> Part | None:
        return state


class DeleteRun(EffectJob, frozen=True):
    """Somebody wants this closed run gone: it goes when it owes nothing to others any more."""

    def part(self, state: WorkflowState) -> Part | None:
        return state


class SendSignal(EffectJob, frozen=True):
    """Deliver a signal to another workflow."""

    initiated_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.external_signals.get(self.initiated_event_id)


class SendCancel(EffectJob, frozen=True):
    """Deliver a cancel request to another workflow."""

    initiated_event_id: int

    def part(self, state: WorkflowState) -> Part | None:
        return state.external_cancels.get(self.initiated_event_id)
