"""What every handler of a worker's command needs: what it knows beside the step, and how it refuses."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from perdure.core.errors import ApiError
from perdure.core.execution import RunKey
from perdure.engine.transaction import Transaction
from perdure.features.workflow.failures import cause_name


class CommandRefused(Exception):
    """A command is impossible: the workflow task fails with this cause, and the worker is told.

    cause: shows in the failed event. message: without the cause's name, which is put before it. terminate: the run cannot go on (its data
    is too big).
    """

    def __init__(self, cause: WorkflowTaskFailedCause.ValueType, message: str = "", *, terminate: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.terminate = terminate
        name = cause_name(cause)
        self.message = f"{name}: {message}" if message else name


def require_attributes(command: Command, field: str, cause: WorkflowTaskFailedCause.ValueType) -> None:
    """Refuse a command that lacks the attributes of its type. field: of Command."""
    if not command.HasField(cast("Any", field)):
        name = "".join(word.capitalize() for word in field.split("_"))
        raise CommandRefused(cause, f"{name} is not set on {name.removesuffix('Attributes')}.")


def refuse_if_too_big(size: int, limit: int, cause: WorkflowTaskFailedCause.ValueType, message: str) -> None:
    """Data over a size limit cannot be retried smaller: it ends the run."""
    if size > limit:
        raise CommandRefused(cause, message, terminate=True)


def refuse_if_too_many(pending: int, limit: int, cause: WorkflowTaskFailedCause.ValueType, what: str) -> None:
    """limit: 0 for none."""
    if pending >= limit > 0:
        raise CommandRefused(cause, f"the number of {what}, {pending}, has reached the per-workflow limit of {limit}")


@contextmanager
def refusing(
    cause: WorkflowTaskFailedCause.ValueType, prefix: str = "", suffix: str = "", *, terminate: bool = False
) -> Generator[None, None, None]:
    """Turn a failed check (an ApiError) of a command's attributes into the refusal of the command. prefix, suffix: around its message."""
    try:
        yield
    except ApiError as error:
        raise CommandRefused(cause, f"{prefix}{error.message}{suffix}", terminate=terminate) from None


class Completion(msgspec.Struct):
    """What command handlers know beside the step.

    transaction: for commands that begin another run. completed_event_id: of the workflow task that the commands belong to.
    eager_activities: scheduled event ids of activities that the worker wants to run itself at once. started_children: workflow ids
    of the children that these commands start. messages: of the completion, not handled yet; rejected: ids of the updates that those
    handled have rejected. discarded: the task was in memory only and has left no trace; then completed_event_id is 0. started_next: the
    worker gets the next task with the answer; outgoing: the messages for it.
    """

    transaction: Transaction
    request: RespondWorkflowTaskCompletedRequest
    completed_event_id: int
    messages: list[Message] = []
    discarded: bool = False
    eager_activities: list[int] = []
    started_children: set[str] = set()
    outgoing: list[Message] = []
    started_next: bool = False
    rejected: set[str] = set()

    @property
    def run(self) -> RunKey:
        run = self.transaction.run
        assert run is not None
        return run.key
