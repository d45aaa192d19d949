"""Simulated workers: they poll, work out commands from histories, do activities, and die, answer late or answer twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message as ProtobufMessage
from temporalio.api.command.v1 import Command, ProtocolMessageCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Request, Response
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RecordActivityTaskHeartbeatRequest,
    RespondActivityTaskCanceledRequest,
    RespondActivityTaskCompletedRequest,
    RespondActivityTaskFailedRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskFailedRequest,
)

from perdure.core.clock import SECOND, to_duration
from perdure.core.errors import ApiError
from perdure.testing.simulated_network import SimulatedNetwork, is_lost
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.programs import Operation, payloads, value_of
from perdure.testing.simulator.replay import ACTIVITY_QUEUE, NAMESPACE, WORKFLOW_QUEUE, Replay, admitted_request

STICKY_TIMEOUT = 5 * SECOND


@dataclass(slots=True)
class WorkerFaults:
    """Probabilities from 0 to 1, of each task. vanishes: it is never answered. late: answered after its timeout. twice: answered twice.
    fails: a workflow task is answered with a failure. forgets: the worker has lost its cache."""

    vanishes: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    fails: float = 0.0
    forgets: float = 0.0


class SimulatedWorker:
    """One worker with a sticky queue of its own."""

    def __init__(self, name: str, network: SimulatedNetwork, rng: random.Random, auditor: Auditor) -> None:
        self.name = name
        self.faults = WorkerFaults()
        self.is_healthy = False
        self._network = network
        self._rng = rng
        self._auditor = auditor
        self._cache: dict[str, list[HistoryEvent]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> list[asyncio.Task[None]]:
        """Poll for ever; the caller cancels."""
        workflows = [self._poll_workflows(f"sticky-{self.name}"), self._poll_workflows(WORKFLOW_QUEUE)]
        loops = [*workflows, self._poll_activities(), self._poll_activities()]
        return [asyncio.get_running_loop().create_task(loop, name=f"{self.name}-{n}") for n, loop in enumerate(loops)]

    def die(self) -> None:
        """Lose everything: what is being worked on, and the cache."""
        for task in list(self._tasks):
            task.cancel()
        self._cache.clear()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(self._rng.uniform(0, seconds))

    async def _call(self, method: str, request: Any) -> Any:
        """A call that is repeated as SDKs do, a few times."""
        for _ in range(3):
            try:
                return await self._network.call(method, request)
            except ApiError as error:
                if not is_lost(error):
                    raise
            await self._wait(0.5)
        return None

    async def _answer(self, method: str, request: Any) -> Any:
        """Answer a task; None when it was refused (it is somebody else's by now), or nothing is known of it."""
        answer = None
        for _ in range(2 if self._rng.random() < self.faults.twice else 1):
            with suppress(ApiError):
                answer = await self._call(method, request)
        return answer

    # -- workflow tasks ---------------------------------------------------------------------------------
    async def _poll_workflows(self, queue: str) -> None:
        is_sticky = queue.startswith("sticky")
        task_queue = TaskQueue(name=queue, kind=2, normal_name=WORKFLOW_QUEUE) if is_sticky else TaskQueue(name=queue)  # pyright: ignore
        request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=task_queue, identity=self.name)
        while True:
            try:
                response = await self._network.call("PollWorkflowTaskQueue", request, timeout=70.0)
            except ApiError:
                await self._wait(1.0)
                continue
            if response.task_token:
                self._spawn(self._do_workflow_task(response))

    async def _do_workflow_task(self, task: PollWorkflowTaskQueueResponse) -> None:
        chance = self._rng.random()
        if chance < self.faults.vanishes:
            return
        events = await self._history(task)
        if events is None:
            return
        if self._rng.random() < self.faults.late:
            await asyncio.sleep(self._rng.uniform(5, 15))
        if self._rng.random() < self.faults.fails:
            failure = Failure(message="injected", application_failure_info=ApplicationFailureInfo(type="Injected"))
            request = RespondWorkflowTaskFailedRequest(task_token=task.task_token, namespace=NAMESPACE, failure=failure, identity=self.name)
            await self._answer("RespondWorkflowTaskFailed", request)
            return
        replay = Replay()
        replay.feed(events)
        sticky = StickyExecutionAttributes(
            worker_task_queue=TaskQueue(name=f"sticky-{self.name}", kind=2, normal_name=WORKFLOW_QUEUE),  # pyright: ignore
            schedule_to_start_timeout=to_duration(STICKY_TIMEOUT),
        )
        answers, announcements = self._answer_updates(task, replay)
        completed = RespondWorkflowTaskCompletedRequest(
            task_token=task.task_token, namespace=NAMESPACE, commands=[*announcements, *replay.commands()], messages=answers,
            identity=self.name,
            sticky_attributes=sticky if self._rng.random() < 0.8 else None,
            force_create_new_workflow_task=not self.is_healthy and self._rng.random() < 0.02,
        )  # fmt: skip
        run_id = task.workflow_execution.run_id
        answer = await self._answer("RespondWorkflowTaskCompleted", completed)
        if answer is None:
            self._cache.pop(run_id, None)
        elif answer.reset_history_event_id and run_id in self._cache:
            # The task was in memory only, and nothing has come of it.
            del self._cache[run_id][answer.reset_history_event_id :]

    def _answer_updates(self, task: PollWorkflowTaskQueueResponse, replay: Replay) -> tuple[list[Message], list[Command]]:
        """Messages about updates, and the commands that place them in history.

        Those accepted earlier are completed now. Those that came with the task are completed, accepted only, or rejected; so are those that
        came over after a reset, but what is rejected of these stays so, because history does not say it.
        """
        messages = [_completion(update_id, update) for update_id, update in replay.updates.items()]
        for update_id, event in replay.admitted.items():
            chance = 0.0 if update_id.endswith("0") else max(0.1, self._chance())
            messages.extend(_answer(f"{update_id}/request", event.event_id, admitted_request(event), chance))
        for message in task.messages:
            update = Request()
            message.body.Unpack(update)
            if message.protocol_instance_id not in replay.admitted:
                messages.extend(_answer(message.id, message.event_id, update, self._chance()))
        return messages, [
            Command(
                command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE,
                protocol_message_command_attributes=ProtocolMessageCommandAttributes(message_id=message.id),
            )
            for message in messages
        ]

    def _chance(self) -> float:
        return 1.0 if self.is_healthy else self._rng.random()

    async def _history(self, task: PollWorkflowTaskQueueResponse) -> list[HistoryEvent] | None:
        """The whole history of a task's run; None when it could not be had."""
        run_id = task.workflow_execution.run_id
        events = list(task.history.events)
        token = task.next_page_token
        while token:
            page = await self._page(task.workflow_execution, token)
            if page is None:
                return None
            events.extend(page.history.events)
            token = page.next_page_token
        if self._rng.random() < self.faults.forgets:
            self._cache.pop(run_id, None)
        if not events or events[0].event_id != 1:
            known = self._cache.get(run_id)
            if known is None or not events or len(known) < events[0].event_id - 1:
                events = await self._whole_history(task)
                if events is None:
                    return None
            else:
                events = known[: events[0].event_id - 1] + events
        self._check(task, events)
        # What a transient task shows is not history yet.
        self._cache[run_id] = events[:-2] if task.attempt > 1 else events
        return events

    async def _page(self, execution: WorkflowExecution, token: bytes) -> Any:
        request = GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution, next_page_token=token)
        try:
            return await self._call("GetWorkflowExecutionHistory", request)
        except ApiError:
            return None

    async def _whole_history(self, task: PollWorkflowTaskQueueResponse) -> list[HistoryEvent] | None:
        """What an SDK does when a sticky task comes and it has lost its cache."""
        events: list[HistoryEvent] = []
        token = b""
        while True:
            page = await self._page(task.workflow_execution, token)
            if page is None:
                return None
            events.extend(page.history.events)
            token = page.next_page_token
            if not token:
                break
        if task.attempt > 1:
            return None if len(events) < task.started_event_id - 2 else events[: task.started_event_id - 2] + list(task.history.events)[-2:]
        events = events[: task.started_event_id]
        # Its start may have been lost since, and something else has happened: the answer would be refused.
        is_present = len(events) == task.started_event_id and events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
        return events if is_present else None

    def _check(self, task: PollWorkflowTaskQueueResponse, events: list[HistoryEvent]) -> None:
        where = f"{task.workflow_execution.workflow_id}/{task.workflow_execution.run_id}"
        ids = [event.event_id for event in events]
        if ids != list(range(1, len(ids) + 1)):
            self._auditor.fail(f"worker: {where}: task with event ids {ids}")
        if events[-1].event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED or ids[-1] != task.started_event_id:
            last = EventType.Name(events[-1].event_type)
            self._auditor.fail(f"worker: {where}: task {task.started_event_id} (attempt {task.attempt}) ends with {ids[-1]} {last}")
        # The task itself may be in memory only (a repeated one, or one that brings an update), and its start is, until it is answered.
        is_written = task.attempt == 1 and not task.messages
        self._auditor.saw(task.workflow_execution.run_id, events[:-1] if is_written else events[:-2])

    # -- activities ---------------------------------------------------------------------------------------
    async def _poll_activities(self) -> None:
        request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=ACTIVITY_QUEUE), identity=self.name)
        while True:
            try:
                response = await self._network.call("PollActivityTaskQueue", request, timeout=70.0)
            except ApiError:
                await self._wait(1.0)
                continue
            if response.task_token:
                self._spawn(self._do_activity(response))

    async def _do_activity(self, task: PollActivityTaskQueueResponse) -> None:
        operation: Operation = value_of(task.input, Operation)
        if self._rng.random() < self.faults.vanishes:
            return
        # Healthy workers are quick: then every activity ends, whatever its timeouts.
        works = 0.0 if self.is_healthy else operation.works / 1000
        if operation.beats:
            for beat in range(3):
                request = RecordActivityTaskHeartbeatRequest(
                    task_token=task.task_token, namespace=NAMESPACE, details=payloads(beat), identity=self.name
                )
                try:
                    response = await self._call("RecordActivityTaskHeartbeat", request)
                except ApiError:
                    return
                if response is not None and response.cancel_requested:
                    canceled = RespondActivityTaskCanceledRequest(task_token=task.task_token, namespace=NAMESPACE, identity=self.name)
                    await self._answer("RespondActivityTaskCanceled", canceled)
                    return
                if response is not None and (response.activity_paused or response.activity_reset):
                    await self._fail_activity(task, is_final=False)
                    return
                await asyncio.sleep(works / 3)
        else:
            await asyncio.sleep(works)
        if self._rng.random() < self.faults.late:
            await asyncio.sleep(self._rng.uniform(1, 12))
        await self._end_activity(task, operation)

    async def _end_activity(self, task: PollActivityTaskQueueResponse, operation: Operation) -> None:
        if not self.is_healthy and self._rng.random() < operation.failing:
            await self._fail_activity(task, is_final=self._rng.random() < 0.2)
            return
        completed = RespondActivityTaskCompletedRequest(
            task_token=task.task_token, namespace=NAMESPACE, identity=self.name, result=payloads(task.attempt)
        )
        await self._answer("RespondActivityTaskCompleted", completed)

    async def _fail_activity(self, task: PollActivityTaskQueueResponse, *, is_final: bool) -> None:
        """is_final: the failure must not be retried."""
        info = ApplicationFailureInfo(type="Injected", non_retryable=is_final)
        failed = RespondActivityTaskFailedRequest(
            task_token=task.task_token, namespace=NAMESPACE, identity=self.name,
            failure=Failure(message="injected", application_failure_info=info),
        )  # fmt: skip
        await self._answer("RespondActivityTaskFailed", failed)


def _answer(message_id: str, event_id: int, update: Request, chance: float) -> list[Message]:
    """What a worker says of an update that it is asked to do: by chance it is rejected, accepted, or accepted and completed.

    message_id, event_id: of the message that brought it, and that message's place in history.
    """
    update_id = update.meta.update_id
    if chance < 0.1:
        failure = Failure(message="injected", application_failure_info=ApplicationFailureInfo(type="Injected"))
        rejection = Rejection(
            rejected_request_message_id=message_id, rejected_request_sequencing_event_id=event_id, rejected_request=update, failure=failure
        )
        return [_message(update_id, "reject", rejection)]
    acceptance = Acceptance(accepted_request_message_id=message_id, accepted_request_sequencing_event_id=event_id, accepted_request=update)
    accepted = _message(update_id, "accept", acceptance)
    return [accepted, _completion(update_id, update)] if chance > 0.4 else [accepted]


def _message(update_id: str, what: str, content: ProtobufMessage) -> Message:
    """A message about an update."""
    body = AnyMessage()
    body.Pack(content)
    return Message(id=f"{update_id}/{what}", protocol_instance_id=update_id, body=body)


def _completion(update_id: str, update: Request) -> Message:
    """An update's result is what it was given."""
    return _message(update_id, "complete", Response(meta=update.meta, outcome=Outcome(success=update.input.args)))
