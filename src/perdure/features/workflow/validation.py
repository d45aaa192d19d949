"""What requests and commands may say about retries, priorities, task queues and durations: the official checks, in the official words.

Each function raises ApiError INVALID_ARGUMENT, if it does not say otherwise. A command handler turns that into its own refusal; see
``commands.refusing``.
"""

from __future__ import annotations

import re
import uuid

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Priority, RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueKind, TimeoutType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import SignalWithStartWorkflowExecutionRequest, StartWorkflowExecutionRequest

from perdure.core.clock import SECOND, duration_ns, to_duration
from perdure.core.errors import invalid_argument, unimplemented
from perdure.core.limits import LONGEST_DURATION, Limits, RetryDefaults
from perdure.features.task_queue.validation import RESERVED_PREFIX

TIMEOUT_TYPE_PREFIX = "TemporalTimeout:"

SERVER_QUEUE_PREFIX = "temporal-sys-per-ns-"
SERVER_CONTROLLER_QUEUE = "temporal-sys-worker-controller-per-ns-tq"
"""Queues of the workers that the official server itself runs in each namespace."""

_TIMEOUT_TYPES = {
    "StartToClose": TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
    "ScheduleToStart": TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START,
    "ScheduleToClose": TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,
    "Heartbeat": TimeoutType.TIMEOUT_TYPE_HEARTBEAT,
}
TIMEOUT_TYPE_NAMES: dict[int, str] = {number: name for name, number in _TIMEOUT_TYPES.items()}


def check_duration(duration: Duration, what: str) -> None:
    """Refuse a negative duration and cut one that is too long. what: begins the message, "invalid StartToCloseTimeout" for instance."""
    seconds, nanos = duration.seconds, duration.nanos
    if seconds * nanos < 0:
        raise invalid_argument(f"{what}: duration has seconds and nanos with different signs")
    nanoseconds = seconds * SECOND + nanos
    if nanoseconds < 0:
        raise invalid_argument(f"{what}: negative duration")
    if nanoseconds > LONGEST_DURATION:
        duration.CopyFrom(to_duration(LONGEST_DURATION // SECOND * SECOND))


_USUAL_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def check_storable(text: str, what: str) -> None:
    """Refuse an id or a name with U+0000, which PostgreSQL cannot keep. Requests are checked before; this is for commands and tokens."""
    if "\0" in text:
        raise invalid_argument(f"{what} holds the character U+0000, which no id or name can have.")


def check_run_id(run_id: str, message: str = "RunId is not valid UUID.") -> None:
    """A run id is a UUID or empty."""
    if run_id and not _USUAL_RUN_ID(run_id):
        try:
            uuid.UUID(run_id)  # it knows the unusual spellings, too
        except ValueError:
            raise invalid_argument(message) from None


def check_execution(execution: WorkflowExecution | None) -> None:
    """Refuse a request that does not say which workflow it means."""
    if execution is None:
        raise invalid_argument("Execution is not set on request.")
    if not execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if execution.run_id:
        try:
            uuid.UUID(execution.run_id)
        except ValueError:
            raise invalid_argument("Invalid RunId.") from None


def check_task_queue(queue: TaskQueue | None, length_limit: int, parent_queue: str = "") -> None:
    """Refuse a task queue that is missing, nameless, too long (bytes) or the server's own; an unset kind becomes NORMAL.

    parent_queue: of the workflow whose command names the queue, "" for none.
    """
    if queue is None:
        raise invalid_argument("taskQueue is not set")
    if not queue.name:
        raise invalid_argument("missing task queue name")
    queue.kind = queue.kind or TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    if len(queue.name.encode()) > length_limit:
        raise invalid_argument("taskQueue length exceeds limit")
    check_storable(queue.name, "taskQueue")
    if queue.name.startswith(RESERVED_PREFIX):
        raise invalid_argument(f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}")
    if queue.name.startswith(SERVER_QUEUE_PREFIX) or queue.name == SERVER_CONTROLLER_QUEUE:
        where = f" (in parent component task queue: {parent_queue})" if parent_queue else ""
        raise invalid_argument(f"cannot use internal per-namespace task queue:{queue.name}{where}")


def check_priority(priority: Priority, limits: Limits) -> None:
    """Refuse a priority that no queue could order by."""
    if priority.priority_key < 0:
        raise invalid_argument("priority key can't be negative")
    if len(priority.fairness_key.encode()) > limits.fairness_key_bytes:
        raise invalid_argument("fairness key length exceeds limit")
    if not priority.fairness_weight >= 0:  # nor NaN
        raise invalid_argument("must be greater than zero")


def fill_retry_policy(policy: RetryPolicy, defaults: RetryDefaults) -> None:
    """Give every unset field of a retry policy its default."""
    if not policy.maximum_attempts:
        policy.maximum_attempts = defaults.maximum_attempts
    if not duration_ns(policy.initial_interval):
        policy.initial_interval.CopyFrom(to_duration(defaults.initial_interval_ns))
    if not duration_ns(policy.maximum_interval):
        longest = int(defaults.maximum_interval_coefficient) * duration_ns(policy.initial_interval)
        # Whatever the initial interval is, it is checked later: here it must only fit.
        policy.maximum_interval.CopyFrom(to_duration(max(-LONGEST_DURATION, min(longest, LONGEST_DURATION))))
    if not policy.backoff_coefficient:
        policy.backoff_coefficient = defaults.backoff_coefficient


def check_retry_policy(policy: RetryPolicy) -> None:
    """Refuse a retry policy that makes no sense. One attempt means no retries: then the rest does not matter."""
    if policy.maximum_attempts == 1:
        return
    check_duration(policy.initial_interval, "invalid InitialInterval set on retry policy")
    if not policy.backoff_coefficient >= 1:  # nor NaN
        raise invalid_argument("BackoffCoefficient cannot be less than 1 on retry policy.")
    check_duration(policy.maximum_interval, "invalid MaximumInterval set on retry policy")
    if 0 < duration_ns(policy.maximum_interval) < duration_ns(policy.initial_interval):
        raise invalid_argument("MaximumInterval cannot be less than InitialInterval on retry policy.")
    if policy.maximum_attempts < 0:
        raise invalid_argument("MaximumAttempts cannot be negative on retry policy.")
    for error_type in policy.non_retryable_error_types:
        name = error_type.removeprefix(TIMEOUT_TYPE_PREFIX)
        if name != error_type and name not in _TIMEOUT_TYPES and name not in TimeoutType.keys()[1:]:
            raise invalid_argument(f"Invalid timeout type value: {name}.")


def check_time_skipping(
    asking: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest | WorkflowExecutionOptions,
) -> None:
    """Refuse to skip time. Raises ApiError UNIMPLEMENTED."""
    if asking.HasField("time_skipping_config"):
        raise unimplemented("The Time-Skipping feature is not enabled for namespace.")


def merge_priority(base: Priority, override: Priority | None) -> Priority:
    """The priority of a task: what an activity or child leaves out comes from its workflow, field by field."""
    if override is None:
        return base
    return Priority(
        priority_key=override.priority_key or base.priority_key,
        fairness_key=override.fairness_key or base.fairness_key,
        fairness_weight=override.fairness_weight or base.fairness_weight,
    )


def capped_run_timeout(run_timeout: int, execution_timeout: int) -> int:
    """A run cannot last longer than its execution; 0 for none, nanoseconds."""
    return min((timeout for timeout in (run_timeout, execution_timeout) if timeout), default=0)


def capped_task_timeout(task_timeout: int, run_timeout: int, limits: Limits) -> int:
    """A workflow task cannot last longer than its run, nor than the limit; 0 for the default; nanoseconds."""
    timeout = min(task_timeout or limits.default_workflow_task_timeout_ns, limits.workflow_task_timeout_maximum_ns)
    return min(timeout, run_timeout) if run_timeout else timeout
