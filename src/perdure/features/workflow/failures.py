"""Failures that the server itself makes, and failures cut to a size."""

from __future__ import annotations

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ServerFailureInfo, TimeoutFailureInfo

from perdure.features.workflow.validation import TIMEOUT_TYPE_NAMES

HEARTBEAT_TOO_LARGE = "Heartbeat details exceed size limit."
RESULT_TOO_LARGE = "Complete result exceeds size limit."
CANCEL_DETAILS_TOO_LARGE = "Cancel details exceed size limit."
FAILURE_TOO_LARGE = "Failure exceeds size limit."
NO_TIME_TO_RETRY = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"

DEEPEST_CAUSE = 20


def cause_name(cause: int) -> str:
    """How the official server spells a ``WorkflowTaskFailedCause``: NonDeterministicError; unknown ones as numbers."""
    if cause not in WorkflowTaskFailedCause.values():
        return str(cause)
    name = WorkflowTaskFailedCause.Name(cause)  # pyright: ignore[reportArgumentType]
    return "".join(word.capitalize() for word in name.removeprefix("WORKFLOW_TASK_FAILED_CAUSE_").split("_"))


def server_failure(message: str, *, non_retryable: bool, cause: Failure | None = None) -> Failure:
    """A failure that is the server's verdict, not the worker's."""
    return Failure(message=message, server_failure_info=ServerFailureInfo(non_retryable=non_retryable), cause=cause)


def too_large(failure: Failure, kept: int) -> Failure:
    """What history has in place of a worker's failure that is over the limit. kept: bytes of it."""
    return server_failure(FAILURE_TOO_LARGE, non_retryable=True, cause=truncate(failure, kept))


def activity_timeout(timeout_type: int, message: str = "") -> Failure:
    """The failure of an activity that timed out. timeout_type: ``temporal.api.enums.v1.TimeoutType``."""
    info = TimeoutFailureInfo(timeout_type=timeout_type)  # pyright: ignore[reportArgumentType]
    return Failure(message=message or f"activity {TIMEOUT_TYPE_NAMES[timeout_type]} timeout", source="Server", timeout_failure_info=info)


def truncate(failure: Failure, size: int, depth: int = DEEPEST_CAUSE) -> Failure:
    """A failure of about `size` bytes at most: what decides about retries comes first, then source, message, stack trace, causes."""
    left = _Room(size)
    cut = Failure()
    if failure.HasField("application_failure_info"):
        cut.application_failure_info.non_retryable = failure.application_failure_info.non_retryable
        cut.application_failure_info.type = left.take(failure.application_failure_info.type)
        left.bytes -= 8
    elif failure.HasField("server_failure_info"):
        cut.server_failure_info.non_retryable = failure.server_failure_info.non_retryable
        left.bytes -= 4
    cut.source = left.take(failure.source)
    cut.message = left.take(failure.message)
    cut.stack_trace = left.take(failure.stack_trace)
    if failure.HasField("cause") and left.bytes > 4 and depth > 0:
        cut.cause.CopyFrom(truncate(failure.cause, left.bytes - 4, depth - 1))
    return cut


class _Room:
    """The bytes that are left; each text takes its length and what protobuf puts around it."""

    def __init__(self, size: int) -> None:
        self.bytes = size

    def take(self, text: str) -> str:
        cut = text.encode()[: max(self.bytes, 0)].decode(errors="ignore")
        if cut:
            self.bytes -= len(cut.encode()) + 4
        return cut
