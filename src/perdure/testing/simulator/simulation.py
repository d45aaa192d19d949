"""One simulation: everything that follows from one seed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest, UnpauseWorkflowExecutionRequest

from perdure.app import Core
from perdure.core.clock import HOUR, SECOND
from perdure.core.errors import ApiError
from perdure.core.ids import IdSource
from perdure.core.limits import Limits
from perdure.engine.partition import SNAPSHOT_ROWS
from perdure.features.workflow.kind import WORKFLOW
from perdure.observability.metrics import Registry
from perdure.settings import ServerSettings
from perdure.store.opening import create_store
from perdure.store.protocol import Store
from perdure.testing.faulty_store import CommitsInDoubt, FaultyStore, StoreCounts, StoreFaults
from perdure.testing.inspector import Inspector
from perdure.testing.simulated_network import Endpoint, NetworkFaults, Process, SimulatedNetwork
from perdure.testing.simulator.audit import Audit
from perdure.testing.simulator.auditor import Auditor
from perdure.testing.simulator.callers import Runs
from perdure.testing.simulator.clients import SimulatedClient
from perdure.testing.simulator.operators import SimulatedOperator, release_activities
from perdure.testing.simulator.programs import payloads
from perdure.testing.simulator.quiet import Quiet
from perdure.testing.simulator.workers import SimulatedWorker, WorkerFaults
from perdure.testing.virtual_time import VirtualClock, VirtualTimeLoop, run_virtual

PAUSED = 8
HEALING_HOURS = 3
MOST_FORWARD = 12 * HOUR
"""The namespace keeps its runs for a day."""
PUNCTUAL_AFTER = 60 * SECOND
"""So long after the last fault everything has its time again."""
CACHE_BYTES = 1 << 20  # the least that the settings allow; made tiny below


@dataclass(slots=True)
class Report:
    """What a simulation came to. trace: a digest of everything that happened, in order: equal for equal seeds."""

    seed: int
    failures: list[str]
    trace: str
    runs: int = 0
    steps: int = 0
    restarts: int = 0
    takeovers: int = 0
    store: StoreCounts = field(default_factory=StoreCounts)
    answers: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def command(self) -> str:
        """Runs this very simulation again."""
        return f"python -m perdure.testing.simulator --seed {self.seed}"


def simulate(seed: int, *, log_trace: bool = False) -> Report:
    """Run the simulation of a seed to its end."""
    shuffle = random.Random(seed ^ 0x5EED) if seed % 2 else None
    simulation = Simulation(seed, log_trace=log_trace)
    try:
        return run_virtual(simulation.run, shuffle=shuffle)
    except Exception as error:
        simulation.auditor.fail(f"the simulation itself ended with {error!r}")
        return simulation.report()


class _BugLog(logging.Handler):
    """Whatever the server logs with a traceback is a bug."""

    def __init__(self, auditor: Auditor) -> None:
        super().__init__(logging.ERROR)
        self._auditor = auditor

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._auditor.fail(f"logged: {logging.Formatter().format(record)}")


class Simulation:
    """The world of one seed: a store that outlives servers, the server of the moment, clients and workers."""

    def __init__(self, seed: int, *, log_trace: bool) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.auditor = Auditor()
        self.inspector = Inspector()
        self.counts = StoreCounts()
        self.restarts = 0
        self.takeovers = 0
        self.runs = 0
        self._set_back = 0
        self._set_forward = 0
        self._log_trace = log_trace
        self._digest = hashlib.sha256()
        self._store_faults = StoreFaults()
        self._in_doubt = CommitsInDoubt()
        self._process: Process | None = None
        self._stack: AsyncExitStack | None = None
        self._faulty: FaultyStore | None = None
        self._core: Core | None = None

    def report(self) -> Report:
        failures = [*self.auditor.failures, *(f"inspector: {failure}" for failure in self.inspector.failures)]
        return Report(
            self.seed, failures, self._digest.hexdigest(), self.runs, self.inspector.steps, self.restarts, self.takeovers, self.counts,
            dict(self.auditor.answers),
        )  # fmt: skip

    def trace(self, line: str) -> None:
        """Everything that happens goes through here."""
        line = f"{self.clock.now()} {line}"
        self._digest.update(line.encode())
        if self._log_trace:
            print(line)

    async def run(self, loop: VirtualTimeLoop) -> Report:
        """Faults first, then heal, then audit."""
        loop.set_task_factory(Process.task_factory)
        loop.set_exception_handler(self._loop_error)
        self.clock = VirtualClock(loop, tick=1)
        self.ids = IdSource(self.rng.getrandbits(64))
        self.network = SimulatedNetwork(self._sub_rng(), self.clock, self.auditor.asked, self._answered)
        self.base: Store = create_store("")
        bugs = _BugLog(self.auditor)
        log = logging.getLogger("perdure")
        level, propagate = log.level, log.propagate
        log.addHandler(bugs)
        log.propagate = False
        await self.base.open()
        try:
            await self._live()
            self.runs = await self._audit()
        finally:
            log.removeHandler(bugs)
            log.setLevel(level)
            log.propagate = propagate
            await self.base.close()
        return self.report()

    def _sub_rng(self) -> random.Random:
        """Randomness of its own for each actor: one more call of one must not change all others."""
        return random.Random(self.rng.getrandbits(64))

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        process = Process.current.get()
        if process is None or process.is_alive:
            self.auditor.fail(f"event loop: {context.get('message')}: {context.get('exception')!r}")

    def _answered(self, method: str, request: Any, answer: Message | ApiError) -> None:
        told = repr(answer) if isinstance(answer, ApiError) else answer.SerializeToString(deterministic=True).hex()
        self.trace(f"{method} {request.SerializeToString(deterministic=True).hex()} {told}")
        self.auditor.answered(method, request, answer)

    # -- the server ---------------------------------------------------------------------------------------
    async def _start_server(self, *, standby: bool = False) -> None:
        process = Process(self.clock)
        store = FaultyStore(self.base, self._sub_rng(), self._store_faults, self.counts, self._in_doubt)
        partitions = self.rng.choice((1, 1, 3, 4))  # another number after each restart
        settings = ServerSettings(
            database="", cache_size_bytes=CACHE_BYTES, metrics_port=None, partitions=partitions, standby=standby,
            limits=Limits(unwritten_bytes=self._unwritten_bytes * partitions),
        )  # fmt: skip
        core = Core(settings, store, process.clock, IdSource(self.rng.getrandbits(64)), Registry(), owner=f"simulated-{self.restarts}")
        stack = AsyncExitStack()
        await process.spawn(core.start(stack), "start")
        core.matching.backlog_bound = self._backlog_bound
        for partition in core.engine.partitions:
            partition.cache.limit = self._cache_limit
            partition.snapshot_rows = self._snapshot_rows
        self.inspector.attach(core.engine)
        self._process, self._stack, self._core, self._faulty = process, stack, core, store
        self.network.endpoint = Endpoint(process, core.dispatcher)
        self.trace("started")

    async def _kill_server(self) -> None:
        """As with SIGKILL: what was in flight happened or not, memory is gone."""
        self.trace("killed")
        if self._process is not None and self._faulty is not None:
            self._faulty.cut()
            self._process.kill()
            self.network.endpoint = None
            await asyncio.sleep(0)

    async def _take_over(self) -> None:
        """The server loses its database, a standby takes over, and some clients go on talking to the old one."""
        self.trace("cut off")
        old, faulty = self._process, self._faulty
        if old is None or faulty is None or not old.is_alive:
            return
        self.network.old_endpoint = self.network.endpoint
        self.network.endpoint = None
        faulty.go_away()
        self.restarts += 1
        self.takeovers += 1
        await self._start_server(standby=True)
        await asyncio.sleep(self.rng.choice((0.1, 5.0, 20.0)))
        self.network.old_endpoint = None
        faulty.cut()
        old.kill()
        await asyncio.sleep(0)

    async def _stop_server(self) -> None:
        """As with SIGTERM."""
        self.trace("stopped")
        if self._process is not None and self._core is not None and self._stack is not None:
            await self._process.spawn(self._core.drain(), "drain")
            self.network.endpoint = None
            await self._process.spawn(self._stack.aclose(), "stop")
            await self._kill_server()

    # -- what happens -----------------------------------------------------------------------------------
    async def _live(self) -> None:
        rng = self.rng
        self._cache_limit = rng.choice((1, 20_000, 60_000, 1 << 24))
        self._backlog_bound = rng.choice((1, 1, 3, 1000))
        self._snapshot_rows = rng.choice((1, 5, SNAPSHOT_ROWS))
        self._unwritten_bytes = rng.choice((1, 50_000, 1 << 27, 1 << 27))
        self._store_faults = self._random_store_faults()
        if rng.random() < 0.7:
            lost = rng.choice((0.0, 0.02, 0.1, 0.2))
            self.network.faults = NetworkFaults(lost_request=lost, lost_answer=lost, delay=rng.choice((0.0, 0.002, 0.05)))
        await self._start_server()
        workers = [SimulatedWorker(f"worker-{n}", self.network, self._sub_rng(), self.auditor) for n in range(rng.choice((1, 2, 3)))]
        for worker in workers:
            bad = rng.choice((0.0, 0.02, 0.1))
            worker.faults = WorkerFaults(vanishes=bad, late=bad, twice=bad, fails=bad, forgets=bad)
        polls = [task for worker in workers for task in worker.start()]
        workflow_ids = [f"workflow-{n}" for n in range(rng.choice((1, 4, 12)))]
        runs: Runs = []
        clients = [
            asyncio.get_running_loop().create_task(
                SimulatedClient(self.network, self._sub_rng(), self.ids, self.auditor, runs, workflow_ids).run(rng.choice((5, 12, 30))),
                name=f"client-{n}",
            )
            for n in range(rng.choice((1, 3, 5)))
        ]
        operator = SimulatedOperator(self.network, self._sub_rng(), self.ids, self.auditor, runs)
        operating = asyncio.get_running_loop().create_task(operator.run(), name="operator")
        await self._disturb(workers)
        await asyncio.gather(*clients, operating)
        await self._heal(workers)
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await self._stop_server()

    def _random_store_faults(self) -> StoreFaults:
        rng = self.rng
        faults = StoreFaults(delay=rng.choice((0.0, 0.001, 0.02)))
        if rng.random() < 0.6:
            bad = rng.choice((0.01, 0.05, 0.2))
            faults.commit_fails, faults.commit_unknown, faults.read_fails = bad * rng.random(), bad * rng.random(), bad * rng.random()
            faults.slow, faults.slow_delay, faults.lost = bad, rng.choice((0.5, 8.0)), rng.choice((0.0, 1.0, 6.0))
        return faults

    async def _disturb(self, workers: list[SimulatedWorker]) -> None:
        """Kill, stop and start the server, kill workers, set the clock, drop what is in memory."""
        rng = self.rng
        for _ in range(rng.choice((0, 2, 5, 10))):
            await asyncio.sleep(rng.choice((0.01, 0.5, 3.0, 30.0)) * rng.random())
            chance = rng.random()
            if chance < 0.1:
                await self._take_over()
            elif chance < 0.35:
                await (self._kill_server() if rng.random() < 0.7 else self._stop_server())
                await asyncio.sleep(rng.choice((0.0, 1.0, 40.0)))
                self.restarts += 1
                await self._start_server()
            elif chance < 0.55:
                rng.choice(workers).die()
            elif chance < 0.7:
                self._set_clock(rng.choice((1, 10, 3600, 288_000, -1, -10, -36_000)) * SECOND // 10)
            else:
                self._evict_all()
                if rng.random() < 0.3:
                    await self._lose_store(reads_fail=rng.random() < 0.5)

    def _set_clock(self, by: int) -> None:
        """What was to happen at a time of day happens so much later when the clock is set back. Never so far forward that runs expire."""
        if self._set_forward + by > MOST_FORWARD:
            return
        self._set_forward += max(0, by)
        self.trace(f"set by {by / SECOND:g} s")
        self.clock.jump(by)
        self._set_back += max(0, -by)

    def _evict_all(self) -> None:
        for partition in self._core.engine.partitions if self._core is not None else ():
            partition.cache.limit, limit = 0, partition.cache.limit
            partition.cache.trim()
            partition.cache.limit = limit

    async def _lose_store(self, *, reads_fail: bool) -> None:
        """For a moment nothing can be written, or nothing at all works."""
        self.trace("store lost")
        faults = self._store_faults
        before = faults.commit_fails, faults.read_fails
        faults.commit_fails = 1.0
        if reads_fail:
            faults.read_fails = 1.0
        await asyncio.sleep(self.rng.choice((0.01, 0.5, 3.0)) * self.rng.random())
        faults.commit_fails, faults.read_fails = before

    async def _last_fault(self) -> None:
        """Nothing that happens later covers up what this does."""
        chance = self.rng.random()
        if chance < 0.3:
            # Evictions that cannot be written.
            self._evict_all()
            await self._lose_store(reads_fail=self.rng.random() < 0.5)
        elif chance < 0.6:
            # Everything has come back, more than there is room for in the task queues, when workers find the server again. Just as they
            # make room nothing can be read.
            await self._kill_server()
            self.restarts += 1
            await self._start_server()
            self.network.endpoint, endpoint = None, self.network.endpoint
            await asyncio.sleep(2.0)
            self.network.endpoint = endpoint
            await self._lose_store(reads_fail=True)

    async def _heal(self, workers: list[SimulatedWorker]) -> None:
        """No more faults, but perhaps a last one: now everything that was begun has to end."""
        await self._last_fault()
        self.trace("healing")
        if self._faulty is not None:
            self._faulty.faults = self._store_faults = StoreFaults()
        self.network.faults = NetworkFaults()
        for worker in workers:
            worker.is_healthy = True
            worker.faults = WorkerFaults()
        # Later than any time before: what was due then may have been late.
        self.auditor.punctual_after = self.clock.now() + self._set_back + PUNCTUAL_AFTER
        self.auditor.set_back = self._set_back
        # First nobody touches anything: a signal would bring back into memory what was forgotten.
        assert self._core is not None
        await Quiet(self.auditor, self.base, self._core.engine, self._namespace_id()).watch(WORKFLOW)
        loop = asyncio.get_running_loop()
        until = loop.time() + HEALING_HOURS * 3600 + self._set_back / SECOND
        while loop.time() < until:
            waiting = await self.base.list_headers(self._namespace_id(), WORKFLOW, open_only=True)
            if not waiting:
                return
            for header in waiting:
                if header.status == PAUSED:
                    unpause = UnpauseWorkflowExecutionRequest(
                        namespace="default", workflow_id=header.business_id, run_id=header.run_id, request_id=self.ids.uuid()
                    )
                    with suppress(ApiError):  # it may have ended meanwhile
                        await self.network.call("UnpauseWorkflowExecution", unpause)
                await release_activities(self.network, self.auditor, header.business_id, header.run_id)
                request = SignalWorkflowExecutionRequest(
                    namespace="default", workflow_execution=WorkflowExecution(workflow_id=header.business_id, run_id=header.run_id),
                    signal_name="note", input=payloads(self.ids.uuid()), request_id=self.ids.uuid(),
                )  # fmt: skip
                # Later only what does not wait for a signal has to go on without being touched.
                if loop.time() < until - HEALING_HOURS * 1800:
                    with suppress(ApiError):
                        await self.network.call("SignalWorkflowExecution", request)
            await asyncio.sleep(60)

    def _namespace_id(self) -> str:
        assert self._core is not None
        found = self._core.namespaces.id_of("default")
        assert found is not None
        return found

    async def _audit(self) -> int:
        assert self._core is not None
        return await Audit(self.auditor, self.base, self._core.engine.kinds[WORKFLOW]).run(self._namespace_id())
