"""How a worker's poll gets a task: checks, the wait, the claim, and the way back of a task whose worker has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from temporalio.api.common.v1 import WorkerVersionCapabilities
from temporalio.api.deployment.v1 import WorkerDeploymentOptions
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.taskqueue.v1 import PollerScalingDecision, TaskQueue

from perdure.core.call import ANSWER_BEFORE, Call
from perdure.core.clock import Clock
from perdure.core.eager import Done, begin
from perdure.core.limits import Limits
from perdure.features.task_queue.validation import check_identity, check_queue, check_version
from perdure.matching.matching import Matching
from perdure.matching.pollers import PollerDetails
from perdure.matching.task_queue import QueueKey, Task

log = logging.getLogger(__name__)


class PollRequest(Protocol):
    """What the poll requests of all types of task have in common."""

    @property
    def task_queue(self) -> TaskQueue: ...
    @property
    def identity(self) -> str: ...
    @property
    def worker_instance_key(self) -> str: ...
    @property
    def worker_version_capabilities(self) -> WorkerVersionCapabilities: ...
    @property
    def deployment_options(self) -> WorkerDeploymentOptions: ...
    def HasField(self, field_name: Any) -> bool: ...  # noqa: N802  the API's name


class PollResponse(Protocol):
    """A response that tells the worker whether it polls enough."""

    @property
    def poller_scaling_decision(self) -> PollerScalingDecision: ...


R = TypeVar("R", bound=PollResponse)


class Polling:
    """Polls of every type of task."""

    def __init__(self, matching: Matching, clock: Clock, limits: Limits) -> None:
        self._matching = matching
        self._clock = clock
        self._limits = limits
        self._background: set[asyncio.Task[None]] = set()

    def check(self, request: PollRequest, *, queue_first: bool) -> None:
        """Raises ApiError INVALID_ARGUMENT. queue_first: the official order of checks differs between types of task."""
        limit = self._limits.max_id_length
        queue = request.task_queue if request.HasField("task_queue") else None
        if queue_first:
            check_queue(queue, limit)
        check_identity(request.identity, limit)
        options = request.deployment_options if request.HasField("deployment_options") else None
        check_version(request.worker_version_capabilities, options, queue, self._limits)
        if not queue_first:
            check_queue(queue, limit)

    async def poll(
        self, task_type: int, request: PollRequest, call: Call, start: Callable[[Task], Coroutine[Any, Any, R | None]],
        give_back: Callable[[Task, R], Awaitable[None]], rate_per_second: float | None = None,
    ) -> R | None:  # fmt: skip
        """The response for the first task that can still be started; None when there was none in time.

        start(task): claims it and makes the response; None when it is stale. give_back(task, response): undoes the claim, because the
        client has gone before the response could leave. rate_per_second: what the worker wants the queue to hand out at most.
        """
        key = QueueKey(call.namespace_id, request.task_queue.name, task_type)
        if request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY:
            self._matching.queue(key).become_sticky()
        details = PollerDetails(
            rate_per_second,
            request.worker_version_capabilities if request.HasField("worker_version_capabilities") else None,
            request.deployment_options if request.HasField("deployment_options") else None,
        )
        begun = self._clock.now()
        until = begun + self._limits.matching_long_poll_ns
        if call.deadline is not None:
            until = min(until, call.deadline - ANSWER_BEFORE)
        with self._matching.admit(call.namespace_id, task_type, self._limits.concurrent_long_polls_per_namespace):
            while True:
                task = await self._matching.poll(
                    key, request.identity, until, is_connected=call.is_connected, worker_instance_key=request.worker_instance_key,
                    details=details,
                )  # fmt: skip
                if task is None:
                    return None
                response = await self._claim(key, task, call, start, give_back)
                if response is not None:
                    self._hint(key, task, begun, response)
                    return response
                if not call.is_connected():
                    return None
                self._matching.queue(key).was_stale()

    async def _claim(
        self, key: QueueKey, task: Task, call: Call, start: Callable[[Task], Coroutine[Any, Any, R | None]],
        give_back: Callable[[Task, R], Awaitable[None]],
    ) -> R | None:  # fmt: skip
        try:
            claim = begin(start(task))
            response = claim.result if isinstance(claim, Done) else await self._claimed(key, task, claim, give_back)
        except Exception:
            self._matching.queue(key).put_back(task)
            raise
        if response is not None and not call.is_connected():
            await give_back(task, response)
            return None
        return response

    async def _claimed(
        self, key: QueueKey, task: Task, claim: asyncio.Task[R | None], give_back: Callable[[Task, R], Awaitable[None]]
    ) -> R | None:
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            # The client went away while its task was being started.
            self._spawn(self._undo(key, task, claim, give_back))
            raise

    async def _undo(
        self, key: QueueKey, task: Task, claim: asyncio.Future[R | None], give_back: Callable[[Task, R], Awaitable[None]]
    ) -> None:
        try:
            response = await claim
            if response is not None:
                await give_back(task, response)
        except Exception as error:
            log.warning("a task of %s went to a client that had gone and could not be taken back at once: %s", key.name, error)
            self._matching.queue(key).put_back(task)

    def _hint(self, key: QueueKey, task: Task, begun: int, response: PollResponse) -> None:
        queue = self._matching.find(key)
        delta = queue.scaling_hint(task, self._clock.now() - begun) if queue is not None else 0
        if delta:
            response.poller_scaling_decision.poll_request_delta_suggestion = delta

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
