"""What is known of a task queue, as the API shows it."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import BuildIdTaskReachability, RateLimitSource
from temporalio.api.taskqueue.v1 import (
    PollerInfo,
    TaskIdBlock,
    TaskQueueStats,
    TaskQueueStatus,
    TaskQueueTypeInfo,
    TaskQueueVersionInfo,
    TaskQueueVersioningInfo,
)
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse

from perdure.core.clock import Clock, to_duration, to_timestamp
from perdure.matching.backlog import DEFAULT_PRIORITY, Rate
from perdure.matching.pollers import DEFAULT_RATE
from perdure.matching.pollers import PollerInfo as Poll
from perdure.matching.task_queue import TaskQueue

UNVERSIONED = "__unversioned__"
NEVER = Timestamp(seconds=-62_135_596_800)
"""The first second of year 1: how the official server, and so every tool, says that something never happened."""

SYSTEM_RATE = 4000.0
"""Shown where nobody has limited a queue; the official server's bound between its own services. We have none to keep."""


def describe(queue: TaskQueue, request: DescribeTaskQueueRequest, clock: Clock) -> DescribeTaskQueueResponse:
    """The answer in the present form: one type of task, all versions together."""
    response = DescribeTaskQueueResponse(pollers=[_poller(poll) for poll in queue.pollers.recent()])
    response.versioning_info.CopyFrom(TaskQueueVersioningInfo(current_version=UNVERSIONED, update_time=NEVER))
    limit = queue.rate_limit
    source = RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM if limit is None else RateLimitSource.RATE_LIMIT_SOURCE_WORKER
    response.effective_rate_limit.rate_limit_source = source
    response.effective_rate_limit.requests_per_second = SYSTEM_RATE if limit is None else limit.per_second
    if request.report_stats:
        by_priority = stats_by_priority(queue, clock.now())
        response.stats.CopyFrom(_total(by_priority.values(), queue))
        for priority, stats in by_priority.items():
            response.stats_by_priority_key[priority].CopyFrom(stats)
    if request.include_task_queue_status:
        rate = limit.per_second if limit is not None else DEFAULT_RATE
        response.task_queue_status.CopyFrom(
            TaskQueueStatus(backlog_count_hint=queue.backlog_count, rate_per_second=rate, task_id_block=TaskIdBlock())
        )
    return response


def describe_versions(queues: dict[int, TaskQueue | None], request: DescribeTaskQueueRequest, clock: Clock) -> DescribeTaskQueueResponse:
    """The answer in the older "enhanced" form: several types of task, by the build id of their workers.

    queues: by type of task; None for one that nobody has used.
    """
    response = DescribeTaskQueueResponse()
    versions = request.versions
    names = [*versions.build_ids]
    if versions.unversioned or versions.all_active or not names:
        names.insert(0, "")
    for name in names:
        info = TaskQueueVersionInfo()
        has_pollers = False
        for task_type, queue in queues.items():
            polls = [] if queue is None else [poll for poll in queue.pollers.recent() if _build_id(poll) == name]
            has_pollers |= bool(polls)
            info.types_info[task_type].CopyFrom(_type_info(queue, polls, request, clock.now(), shows_stats=not name))
        if request.report_task_reachability:
            reachable = not name or has_pollers
            info.task_reachability = (
                BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
                if reachable
                else BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_UNREACHABLE
            )
        response.versions_info[name].CopyFrom(info)
    return response


def _type_info(
    queue: TaskQueue | None, polls: list[Poll], request: DescribeTaskQueueRequest, now: int, *, shows_stats: bool
) -> TaskQueueTypeInfo:
    info = TaskQueueTypeInfo()
    if request.report_pollers:
        info.pollers.extend(_poller(poll) for poll in polls)
    if request.report_stats:
        stats = TaskQueueStats(approximate_backlog_age=to_duration(0))
        info.stats.CopyFrom(_total(stats_by_priority(queue, now).values(), queue) if queue is not None and shows_stats else stats)
    return info


def stats_by_priority(queue: TaskQueue, now: int) -> dict[int, TaskQueueStats]:
    """Backlog and rates of each priority that has any; the default one is always there."""
    waiting = {**dict.fromkeys((DEFAULT_PRIORITY, *queue.added), (0, now)), **queue.backlog_by_priority()}
    nothing = Rate()
    return {
        priority: TaskQueueStats(
            approximate_backlog_count=count,
            approximate_backlog_age=to_duration(now - oldest_at),
            tasks_add_rate=queue.added.get(priority, nothing).per_second(now),
            tasks_dispatch_rate=queue.dispatched.get(priority, nothing).per_second(now),
            rate_limiting_active=queue.is_held_back,
        )
        for priority, (count, oldest_at) in sorted(waiting.items())
    }


def _total(parts: Iterable[TaskQueueStats], queue: TaskQueue) -> TaskQueueStats:
    parts = list(parts)
    oldest = max(parts, key=lambda part: (part.approximate_backlog_age.seconds, part.approximate_backlog_age.nanos))
    return TaskQueueStats(
        approximate_backlog_count=queue.backlog_count,
        approximate_backlog_age=oldest.approximate_backlog_age,
        tasks_add_rate=sum(part.tasks_add_rate for part in parts),
        tasks_dispatch_rate=sum(part.tasks_dispatch_rate for part in parts),
        rate_limiting_active=queue.is_held_back,
    )


def _poller(poll: Poll) -> PollerInfo:
    details = poll.details
    return PollerInfo(
        last_access_time=to_timestamp(poll.last_access_at),
        identity=poll.identity,
        rate_per_second=DEFAULT_RATE if details.rate_per_second is None else details.rate_per_second,
        worker_version_capabilities=details.capabilities,
        deployment_options=details.deployment_options,
    )


def _build_id(poll: Poll) -> str:
    """The build id under which a worker gets tasks; "" for workers that do not use versions."""
    capabilities = poll.details.capabilities
    return capabilities.build_id if capabilities is not None and capabilities.use_versioning else ""
