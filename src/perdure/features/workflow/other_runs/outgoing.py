"""What a workflow run remembers of its dealings with other executions: children, signals and cancel requests it sends.

Each is a part of its state and implies the job that delivers the message, until the outcome is recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from temporalio.api.enums.v1 import ParentClosePolicy
from temporalio.api.history.v1 import (
    RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
)
from temporalio.api.sdk.v1 import UserMetadata

from perdure.core.jobs import Job
from perdure.features.workflow.jobs import AskChild, CloseChild, SendCancel, SendSignal, StartChild

if TYPE_CHECKING:
    from perdure.features.workflow.state import WorkflowState


def message_id(run_id: str, initiated_event_id: int) -> str:
    """The request id of a message to another execution: the same on every delivery, and never that of another message."""
    return str(uuid.uuid5(uuid.UUID(run_id), str(initiated_event_id)))


class Child(msgspec.Struct):
    """A pending child workflow.

    attributes: as it was initiated; without the input once it has started. first_run_id: "" until the start is recorded; the child may
    be several runs further. started_event_id: 0 until the started event has its id. is_closed: the parent close policy was applied.
    initiated_by: the run that initiated it, if a reset handed it on to this one; "" for this run. is_asked: such a child was seen running
    since. goes_on: a reset handed it on to another run, so the end of this one does not concern it.
    """

    initiated_event_id: int
    initiated_at: int
    attributes: StartChildWorkflowExecutionInitiatedEventAttributes
    user_metadata: UserMetadata | None = None
    first_run_id: str = ""
    started_event_id: int = 0
    is_closed: bool = False
    initiated_by: str = ""
    is_asked: bool = False
    goes_on: bool = False

    def request_id(self, parent_run_id: str) -> str:
        """Makes the start of the child happen once. The form is the official server's: it shows in the child's description."""
        return f"{self.initiated_by or parent_run_id}:{self.initiated_event_id}:0"

    @property
    def must_close(self) -> bool:
        """Whether the end of its parent means something to it that it has not been told yet."""
        is_abandoned = self.attributes.parent_close_policy == ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON
        return not (is_abandoned or self.is_closed or self.goes_on)

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if state.is_open:
            if not self.first_run_id:
                yield StartChild(0, self.initiated_event_id)
            elif self.initiated_by and not self.is_asked:
                yield AskChild(0, self.initiated_event_id)
            return
        if self.must_close:
            # Also when no start is recorded: it may have happened just before the parent closed.
            yield CloseChild(0, self.initiated_event_id)


def is_run_of(state: WorkflowState, child: Child) -> bool:
    """Whether a run belongs to the workflow that was started as this child, whoever is its parent by now."""
    return bool(child.first_run_id) and state.started.first_execution_run_id == child.first_run_id


class ExternalSignal(msgspec.Struct):
    """A signal to another workflow that has not been delivered yet."""

    initiated_event_id: int
    initiated_at: int
    attributes: SignalExternalWorkflowExecutionInitiatedEventAttributes

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if state.is_open:
            yield SendSignal(0, self.initiated_event_id)


class ExternalCancel(msgspec.Struct):
    """A cancel request to another workflow that has not been delivered yet."""

    initiated_event_id: int
    initiated_at: int
    attributes: RequestCancelExternalWorkflowExecutionInitiatedEventAttributes

    def jobs(self, state: WorkflowState) -> Iterable[Job]:
        if state.is_open:
            yield SendCancel(0, self.initiated_event_id)
