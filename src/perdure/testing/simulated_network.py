"""Calls to a simulated server: lost on the way there or back, slow, given up by clients, cut off when the server dies."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from perdure.core.call import WORKFLOW_SERVICE, Call, Handler
from perdure.core.clock import SECOND, Alarm, Clock
from perdure.core.errors import ApiError, Code, unavailable
from perdure.features.workflow.rpc.history import FOLLOWS_NEXT_RUN
from perdure.rpc.dispatch import Dispatcher
from perdure.testing.virtual_time import VirtualClock


class Process:
    """Everything that runs in one simulated server process, so that it can be killed: its tasks and its alarms."""

    current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

    def __init__(self, clock: VirtualClock) -> None:
        self.is_alive = True
        self.clock: Clock = _ProcessClock(self, clock)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._context = contextvars.copy_context()
        self._context.run(Process.current.set, self)

    def spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        """Run something in this process. The loop needs :meth:`task_factory`."""
        return asyncio.get_running_loop().create_task(coroutine, name=name, context=self._context.copy())

    def kill(self) -> None:
        """End at once: nothing of it runs any more, but for what its tasks do on the way out."""
        self.is_alive = False
        for task in list(self.tasks):
            task.cancel()

    @staticmethod
    def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Every task belongs to the process of the task that made it."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        context: contextvars.Context | None = options.get("context")
        process = context.get(Process.current) if context is not None else Process.current.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
            if not process.is_alive:
                task.cancel()
        return task


class _ProcessClock:
    """A clock whose alarms die with the process."""

    def __init__(self, process: Process, clock: VirtualClock) -> None:
        self._process = process
        self._clock = clock

    def now(self) -> int:
        return self._clock.now()

    def elapsed(self) -> int:
        return self._clock.elapsed()

    def call_at(self, at: int, callback: Callable[[], None]) -> Alarm:
        return self._clock.call_at(at, self._while_alive(callback))

    def when_set(self, callback: Callable[[], None]) -> Alarm:
        return self._clock.when_set(self._while_alive(callback))

    def _while_alive(self, callback: Callable[[], None]) -> Callable[[], None]:
        def ring() -> None:
            if self._process.is_alive:
                callback()

        return ring


@dataclass(slots=True)
class NetworkFaults:
    """Probabilities from 0 to 1. lost_request: the server never sees it. lost_answer: the client never hears of it. delay: seconds each
    way, at most."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    delay: float = 0.0


@dataclass(slots=True)
class Endpoint:
    """A server as the network sees it."""

    process: Process
    dispatcher: Dispatcher
    handlers: dict[str, Handler] = field(default_factory=dict[str, Handler])

    def handler(self, method: str) -> Handler:
        """The handler of an RPC of the workflow service."""
        found = self.handlers.get(method)
        if found is None:
            found = self.handlers[method] = self.dispatcher.handler(self.dispatcher.methods.get(method, WORKFLOW_SERVICE))
        return found


class SimulatedNetwork:
    """Carries calls to whatever server is there now.

    asked(method, request): told of every call before it is sent. answered(method, request, answer): told what a living server answered,
    response or ApiError, whether or not that reaches the client.
    """

    def __init__(
        self, rng: random.Random, clock: VirtualClock, asked: Callable[[str, Any], None],
        answered: Callable[[str, Any, Message | ApiError], None],
    ) -> None:  # fmt: skip
        self.faults = NetworkFaults()
        self.endpoint: Endpoint | None = None
        #: A server that has been replaced, and that some clients still reach.
        self.old_endpoint: Endpoint | None = None
        self._rng = rng
        self._clock = clock
        self._asked = asked
        self._answered = answered
        self._numbers = 0

    async def call(self, method: str, request: Any, timeout: float = 10.0, client: str = "") -> Any:
        """The server's answer. timeout: seconds after which the client gives up. client: the name that it gives itself.

        Raises ApiError; UNAVAILABLE when there is no answer, for whatever reason.
        """
        self._asked(method, request)
        await self._travel()
        endpoint = self.endpoint
        if self.old_endpoint is not None and self._rng.random() < 0.5:
            endpoint = self.old_endpoint
        if endpoint is None or not endpoint.process.is_alive or self._rng.random() < self.faults.lost_request:
            raise unavailable("no connection")
        self._numbers += 1
        # So that they are shown the events that were recorded, and nothing in their place.
        headers = {"supported-features": FOLLOWS_NEXT_RUN}
        if client:
            headers["client-name"] = client
        call = Call(method, headers, deadline=self._clock.now() + int(timeout * SECOND))
        is_waiting = True
        call.is_connected = lambda: is_waiting
        serving = endpoint.process.spawn(self._serve(endpoint, method, request, call), f"call-{self._numbers}")
        try:
            done, _ = await asyncio.wait([serving], timeout=timeout)
        finally:
            is_waiting = False
            serving.cancel()
        if not done or serving.cancelled() or not endpoint.process.is_alive:
            raise unavailable("the connection broke")
        await self._travel()
        if self._rng.random() < self.faults.lost_answer:
            raise unavailable("the answer was lost")
        answer = serving.result()
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def _serve(self, endpoint: Endpoint, method: str, request: Any, call: Call) -> Message | ApiError:
        # The server gets a message of its own, as from a wire.
        copy: Message = type(request)()
        copy.ParseFromString(request.SerializeToString())
        try:
            answer = await endpoint.handler(method)(copy, call)
        except ApiError as error:
            answer = error
        else:
            answer = endpoint.dispatcher.methods.get(method, WORKFLOW_SERVICE).response(answer)
        if endpoint.process.is_alive:
            self._answered(method, request, answer)
        return answer

    async def _travel(self) -> None:
        if self.faults.delay:
            await asyncio.sleep(self._rng.uniform(0, self.faults.delay))


def is_lost(error: ApiError) -> bool:
    """Whether the client cannot know what became of its call."""
    return error.code in (Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED)
