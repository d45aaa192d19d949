"""DescribeTaskQueue, ListTaskQueuePartitions, ShutdownWorker, PollNexusTaskQueue."""

from __future__ import annotations

import socket
from collections.abc import Callable

from temporalio.api.enums.v1 import DescribeTaskQueueMode, TaskQueueKind
from temporalio.api.taskqueue.v1 import TaskQueuePartitionMetadata
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    ListTaskQueuePartitionsRequest,
    ListTaskQueuePartitionsResponse,
    PollNexusTaskQueueRequest,
    PollNexusTaskQueueResponse,
    ShutdownWorkerRequest,
    ShutdownWorkerResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.errors import invalid_argument
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob
from perdure.core.limits import Limits
from perdure.features.task_queue.describing import describe, describe_versions
from perdure.features.task_queue.polling import Polling
from perdure.features.task_queue.validation import RESERVED_PREFIX, check_queue
from perdure.matching.backlog import ACTIVITY_QUEUE, NEXUS_QUEUE, WORKFLOW_QUEUE
from perdure.matching.matching import Matching
from perdure.matching.task_queue import QueueKey, Task


class TaskQueueRpc:
    """Tells about queues, and lets workers say goodbye.

    dispatch(run, job): hands a task to its queue once more.
    """

    def __init__(self, matching: Matching, polling: Polling, limits: Limits, dispatch: Callable[[RunKey, EffectJob], None]) -> None:
        self._matching = matching
        self._polling = polling
        self._limits = limits
        self._dispatch = dispatch
        self._host = socket.gethostname()

    def register(self, methods: MethodTable) -> None:
        methods.handle("DescribeTaskQueue", self.describe)
        methods.handle("ListTaskQueuePartitions", self.partitions)
        methods.handle("ShutdownWorker", self.shut_down)
        methods.handle("PollNexusTaskQueue", self.poll_nexus)

    async def describe(self, request: DescribeTaskQueueRequest, call: Call) -> DescribeTaskQueueResponse:
        is_enhanced = request.api_mode == DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
        queue = request.task_queue if request.HasField("task_queue") else None
        check_queue(queue, self._limits.max_id_length, partition=not is_enhanced)
        name = request.task_queue.name
        if is_enhanced:
            if request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY:
                raise invalid_argument(
                    "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue."
                )
            types = request.task_queue_types or (WORKFLOW_QUEUE, ACTIVITY_QUEUE)
            queues = {int(kind): self._matching.find(QueueKey(call.namespace_id, name, kind)) for kind in types}
            return describe_versions(queues, request, self._matching.clock)
        if name.startswith(RESERVED_PREFIX):
            name = _queue_of_partition(name)
            if request.report_stats:
                raise invalid_argument("DescribeTaskQueue stats are only supported for the root partition")
        key = QueueKey(call.namespace_id, name, request.task_queue_type or WORKFLOW_QUEUE)
        return describe(self._matching.find(key) or self._matching.unused(key), request, self._matching.clock)

    async def partitions(self, request: ListTaskQueuePartitionsRequest, call: Call) -> ListTaskQueuePartitionsResponse:
        """There is one partition, whatever the load: a queue is a structure in memory, not a table."""
        check_queue(request.task_queue if request.HasField("task_queue") else None, self._limits.max_id_length)
        root = TaskQueuePartitionMetadata(key=request.task_queue.name, owner_host_name=self._host)
        return ListTaskQueuePartitionsResponse(activity_task_queue_partitions=[root], workflow_task_queue_partitions=[root])

    async def poll_nexus(self, request: PollNexusTaskQueueRequest, call: Call) -> PollNexusTaskQueueResponse:
        """Workers with Nexus handlers poll; nothing makes Nexus tasks yet."""
        self._polling.check(request, queue_first=True)

        async def start(task: Task) -> PollNexusTaskQueueResponse | None:
            return None

        async def give_back(task: Task, response: PollNexusTaskQueueResponse) -> None:
            return None

        return await self._polling.poll(NEXUS_QUEUE, request, call, start, give_back) or PollNexusTaskQueueResponse()

    async def shut_down(self, request: ShutdownWorkerRequest, call: Call) -> ShutdownWorkerResponse:
        namespace_id = call.namespace_id
        if request.worker_instance_key and request.task_queue:
            types = request.task_queue_types or (WORKFLOW_QUEUE, ACTIVITY_QUEUE)
            keys = [QueueKey(namespace_id, request.task_queue, kind) for kind in types]
            if request.sticky_task_queue:
                keys.append(QueueKey(namespace_id, request.sticky_task_queue, WORKFLOW_QUEUE))
            self._matching.stop_worker(request.worker_instance_key, request.identity, keys)
        if request.sticky_task_queue:
            for task in self._matching.unload(QueueKey(namespace_id, request.sticky_task_queue, WORKFLOW_QUEUE)):
                if task.job is not None:
                    self._dispatch(task.key, task.job)
                elif task.turned_away is not None:
                    task.turned_away()
        return ShutdownWorkerResponse()


def _queue_of_partition(name: str) -> str:
    """``/_sys/orders/3`` → ``orders``: all partitions of a queue are one here. Raises ApiError INVALID_ARGUMENT for a malformed name."""
    queue, slash, number = name.removeprefix(RESERVED_PREFIX).rpartition("/")
    if not slash or not queue or not number.isdecimal() or int(number) == 0:
        raise invalid_argument(f"invalid task queue partition name {name}")
    return queue
