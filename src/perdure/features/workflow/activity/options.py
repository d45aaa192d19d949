"""What an activity may be asked to do: the checks and defaults of its options, and their later change by an operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Priority, RetryPolicy
from temporalio.api.history.v1 import ActivityTaskScheduledEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue

from perdure.core.clock import duration_ns, to_duration
from perdure.core.errors import ApiError, invalid_argument
from perdure.core.limits import Limits
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.validation import check_duration, check_priority, check_retry_policy, check_task_queue, fill_retry_policy

TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")
_INVALID = {name: f"invalid {''.join(word.capitalize() for word in name.split('_'))}" for name in TIMEOUTS}
_RETRY_FIELDS = ("initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts")
_PRIORITY_FIELDS = ("priority_key", "fairness_key", "fairness_weight")
_KNOWN_PATHS = {
    "task_queue.name", *TIMEOUTS, "start_delay", "priority", *(f"priority.{name}" for name in _PRIORITY_FIELDS),
    "retry_policy", *(f"retry_policy.{name}" for name in _RETRY_FIELDS),
}  # fmt: skip

Options = ActivityOptions | ActivityTaskScheduledEventAttributes
"""Both name task queue, timeouts, retry policy and priority alike."""


def check_options(activity_id: str, activity_type: str, options: Options, run_timeout: int, limits: Limits, workflow_queue: str) -> None:
    """Check an activity in the official order, and fill and cap its options in place.

    run_timeout: of the workflow run, nanoseconds, 0 for none: no timeout of the activity is longer. workflow_queue: the run's task queue.
    Raises ApiError INVALID_ARGUMENT.
    """
    check_task_queue(options.task_queue if options.HasField("task_queue") else None, limits.max_id_length, workflow_queue)
    if not activity_id:
        raise invalid_argument("activityId is not set")
    if not activity_type:
        raise invalid_argument("activityType is not set")
    fill_retry_policy(options.retry_policy, limits.default_activity_retry)
    check_retry_policy(options.retry_policy)
    for what, text in (("activityId", activity_id), ("activityType", activity_type)):
        if (length := len(text.encode())) > limits.max_id_length:
            raise invalid_argument(f"{what} exceeds length limit. Length={length} Limit={limits.max_id_length}")
    try:
        check_priority(options.priority, limits)
    except ApiError as error:
        raise invalid_argument(f"invalid priorities: {error.message}") from None
    fill_timeouts(activity_id, activity_type, options, run_timeout)


def fill_timeouts(activity_id: str, activity_type: str, options: Options, run_timeout: int) -> None:
    """Check the timeouts and derive those that are not set from the others, in place. Raises ApiError INVALID_ARGUMENT."""
    given: list[int] = []
    for name in TIMEOUTS:
        duration: Duration = getattr(options, name)
        check_duration(duration, _INVALID[name])
        given.append(duration_ns(duration))
    to_close, to_start, start_to_close, heartbeat = given
    if not to_close and not start_to_close:
        raise invalid_argument(
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. "
            f"ActivityId={activity_id} ActivityType={activity_type}"
        )
    filled = normalize_timeouts(to_close, to_start, start_to_close, heartbeat, run_timeout)
    for name, old, timeout in zip(TIMEOUTS, given, filled, strict=True):
        if timeout != old or not options.HasField(name):  # pyright: ignore[reportArgumentType]  one of the names
            field: Duration = getattr(options, name)
            field.CopyFrom(to_duration(timeout))


def normalize_timeouts(to_close: int, to_start: int, start_to_close: int, heartbeat: int, run_timeout: int) -> tuple[int, int, int, int]:
    """Fill each timeout from the others and cap all by the run's: (schedule-to-close, schedule-to-start, start-to-close, heartbeat)."""
    if to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    else:
        to_close = run_timeout
        to_start = to_start or run_timeout
    if run_timeout:
        to_close, to_start, start_to_close, heartbeat = (min(t, run_timeout) for t in (to_close, to_start, start_to_close, heartbeat))
    return to_close, to_start, start_to_close, min(heartbeat, start_to_close)


# -- changing them later ------------------------------------------------------------------------------------------
def check_change(change: ActivityOptions, paths: Sequence[str], limits: Limits) -> None:
    """Refuse a change of options by what it says itself: the checks of the newer calls. paths: of the field mask, as they were sent.

    A retry policy that is given as a whole gets its defaults. Raises ApiError INVALID_ARGUMENT.
    """
    if not paths:
        raise invalid_argument("UpdateMask must specify at least one path")
    changed = mask_paths(paths)
    for path in paths:
        if _snake_case(path) not in _KNOWN_PATHS:
            raise invalid_argument(f'unsupported update_mask path: "{path}"')
    if "task_queue.name" in changed:
        check_task_queue(change.task_queue if change.HasField("task_queue") else None, limits.max_id_length)
    for name in TIMEOUTS:
        if name in changed:
            check_duration(getattr(change, name), _INVALID[name])
    if "priority" in changed:
        check_priority(change.priority, limits)
    check_priority(Priority(**{name: getattr(change.priority, name) for name in _PRIORITY_FIELDS if f"priority.{name}" in changed}), limits)
    if "retry_policy" in changed:
        fill_retry_policy(change.retry_policy, limits.default_activity_retry)
        check_retry_policy(change.retry_policy)
    for name in _RETRY_FIELDS:
        if f"retry_policy.{name}" in changed:
            # Each by itself, beside nothing that could be wrong: whether they fit together is seen with those that are in force.
            alone = RetryPolicy(backoff_coefficient=1)
            _take(alone, change.retry_policy, name)
            check_retry_policy(alone)


def mask_paths(paths: Iterable[str]) -> set[str]:
    """The paths of a field mask, which may be in snake or camel case, in snake case."""
    return {_snake_case(path) for path in paths}


def _snake_case(path: str) -> str:
    path = path[:1].lower() + path[1:]
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in path).replace("._", ".")


def changed_options(activity: Activity, change: ActivityOptions, paths: set[str], limits: Limits, workflow_queue: str) -> ActivityOptions:
    """The activity's options with the fields of `change` that `paths` name (as of :func:`mask_paths`); unknown paths are ignored.

    workflow_queue: the task queue of its workflow run. Raises ApiError INVALID_ARGUMENT when the result makes no sense.
    """
    options = present_options(activity)
    if "task_queue.name" in paths:
        _require(change, "task_queue", "TaskQueue")
        options.task_queue.name = change.task_queue.name
    for name in TIMEOUTS:
        if name in paths:
            _take(options, change, name)
    if "priority" in paths:
        _take(options, change, "priority")
    for name in _PRIORITY_FIELDS:
        if f"priority.{name}" in paths:
            _require(change, "priority", "Priority")
            setattr(options.priority, name, getattr(change.priority, name))
    if "retry_policy" in paths:
        _require(change, "retry_policy", "RetryPolicy")
        options.retry_policy.CopyFrom(change.retry_policy)
        # What it leaves out is none of its faults, and stays out.
        filled = RetryPolicy()
        filled.CopyFrom(change.retry_policy)
        fill_retry_policy(filled, limits.default_activity_retry)
        check_retry_policy(filled)
    for name in _RETRY_FIELDS:
        if f"retry_policy.{name}" in paths:
            _require(change, "retry_policy", "RetryPolicy")
            _take(options.retry_policy, change.retry_policy, name)
    if any(path.startswith("retry_policy.") for path in paths):
        check_retry_policy(options.retry_policy)
    check_task_queue(options.task_queue, limits.max_id_length, workflow_queue)
    fill_timeouts(activity.activity_id, activity.attributes.activity_type.name, options, 0)
    return options


def present_options(activity: Activity) -> ActivityOptions:
    """The options in force, as a message of their own."""
    settings = activity.settings
    policy = settings.retry_policy
    return ActivityOptions(
        task_queue=TaskQueue(name=settings.task_queue.name), schedule_to_close_timeout=settings.schedule_to_close_timeout,
        schedule_to_start_timeout=settings.schedule_to_start_timeout, start_to_close_timeout=settings.start_to_close_timeout,
        heartbeat_timeout=settings.heartbeat_timeout, priority=activity.priority,
        retry_policy=RetryPolicy(
            initial_interval=policy.initial_interval, backoff_coefficient=policy.backoff_coefficient,
            maximum_interval=policy.maximum_interval, maximum_attempts=policy.maximum_attempts,
        ),
    )  # fmt: skip


def original_options(activity: Activity) -> ActivityOptions:
    """The options that the activity was scheduled with."""
    attributes = activity.attributes
    return ActivityOptions(
        task_queue=TaskQueue(name=attributes.task_queue.name), schedule_to_close_timeout=attributes.schedule_to_close_timeout,
        schedule_to_start_timeout=attributes.schedule_to_start_timeout, start_to_close_timeout=attributes.start_to_close_timeout,
        heartbeat_timeout=attributes.heartbeat_timeout, retry_policy=attributes.retry_policy,
        priority=attributes.priority if attributes.HasField("priority") else None,
    )  # fmt: skip


def _require(change: ActivityOptions, field: str, name: str) -> None:
    if not change.HasField(field):  # pyright: ignore[reportArgumentType]
        raise invalid_argument(f"{name} is not provided")


def _take(into: ActivityOptions | RetryPolicy | Priority, source: ActivityOptions | RetryPolicy, name: str) -> None:
    """Set a field to what it is in the source, also if that is "not set"."""
    field = into.DESCRIPTOR.fields_by_name[name]
    if field.message_type is None:
        setattr(into, name, getattr(source, name))
    elif source.HasField(name):  # pyright: ignore[reportArgumentType]
        getattr(into, name).CopyFrom(getattr(source, name))
    else:
        into.ClearField(name)  # pyright: ignore[reportArgumentType]
