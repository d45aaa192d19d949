"""Wires the server together, top to bottom; the only place that knows all parts."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType

from perdure.core.call import MethodTable
from perdure.core.clock import SECOND, Clock, SystemClock
from perdure.core.enum_values import keep_enum_values
from perdure.core.execution import Kind
from perdure.core.ids import IdSource
from perdure.core.poison_policy import parse_poison_policy
from perdure.engine.engine import LEASE, Engine
from perdure.engine.upkeep import until
from perdure.features.namespace.registry import Namespace, NamespaceRegistry
from perdure.features.namespace.removal import NamespaceRemoval
from perdure.features.namespace.rpc import NamespaceRpc
from perdure.features.search_attributes.rpc import SearchAttributesRpc
from perdure.features.system.rpc import SystemRpc
from perdure.features.task_queue.metrics import TaskQueueMetrics
from perdure.features.workflow import feature as workflow
from perdure.features.workflow.kind import WorkflowKind
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.tokens import decode_token
from perdure.matching.matching import Matching
from perdure.observability.http import HttpServer, observability_routes
from perdure.observability.loop_lag import LoopLag
from perdure.observability.metrics import Registry
from perdure.observability.rpc_metrics import RpcMetrics
from perdure.observability.server_metrics import ServerMetrics
from perdure.rpc.checks import Checks
from perdure.rpc.dispatch import Dispatcher
from perdure.rpc.grpc_server import GrpcServer
from perdure.rpc.listening import ListenError, listen
from perdure.rpc.services import method_table
from perdure.settings import ServerSettings
from perdure.store.opening import create_store
from perdure.store.protocol import Store, StoreError, StoreInUse, StoreOpenError

log = logging.getLogger(__name__)

CLUSTER_ID = "cluster-id"
STANDBY_RETRY = SECOND // 2
PROBES_HANDOVER = 3 * SECOND
SHARE_OF_STORE = 0.8
"""Of the time to drain: calls that wait for a store that does not answer are given up then, and have the rest of the time to leave."""
LEAST_STOP_SECONDS = 1.0
"""So long the store may take to answer what is on its way, even if calls have used up all the time to drain."""


class StartError(Exception):
    """The server cannot start; the message says what, why, and what to do."""


class Core:
    """A server without its transports: store, engine, features and matching, and the dispatcher that answers calls.

    owner: names this server in leases. The simulator runs one like this.
    """

    def __init__(self, settings: ServerSettings, store: Store, clock: Clock, ids: IdSource, registry: Registry, *, owner: str) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.ids = ids
        self.registry = registry
        self.metrics = metrics = ServerMetrics(registry)
        self.namespaces = NamespaceRegistry(store, ids)
        metrics.namespace_name = self.namespaces.name_of
        self.namespaces.poison_policy = parse_poison_policy(settings.poison_policy)
        kinds: dict[str, Kind[Any, Any]] = {WorkflowKind.name: WorkflowKind(settings.limits, self.namespaces, metrics)}
        self.engine = Engine(
            store, kinds, clock, ids, owner=owner, partitions=settings.partitions, cache_bytes=settings.cache_size_bytes,
            unwritten_bytes=settings.limits.unwritten_bytes, standby=settings.standby, observer=metrics,
        )  # fmt: skip
        self.matching = Matching(clock, priority_levels=settings.limits.priority_levels)
        self._writing_out: asyncio.Task[None] | None = None
        registry.before_render.append(lambda: metrics.show_cache(partition.cache for partition in self.engine.partitions))
        TaskQueueMetrics(metrics, registry, self.matching, self.namespaces)
        self.removal = NamespaceRemoval(self.namespaces, self.engine, clock)
        keep_enum_values()
        self.methods = method_table()
        checks = Checks(self.namespaces, lambda token: decode_token(token).namespace_id, clock, settings.limits)
        self.dispatcher = Dispatcher(self.methods, checks, RpcMetrics(registry), ids)

    async def start(self, stack: AsyncExitStack) -> None:
        """Open the store and begin to work; the stack undoes it. Raises StoreOpenError."""
        try:
            await self._start(stack)
        except StoreOpenError:
            raise
        except StoreError as error:
            raise StoreOpenError(f"{self.store.description} cannot be used: {error}") from error

    async def _start(self, stack: AsyncExitStack) -> None:
        await self._open_store()
        stack.push_async_callback(self.store.close)
        await self.engine.start()
        stack.push_async_callback(self._stop_engine)
        stack.push_async_callback(self.removal.stop)
        await self._create_namespaces()
        await self._register(self.methods)
        self.engine.begin_work()
        self.removal.start()

    async def drain(self) -> None:
        """Answer the calls that wait: the server is about to stop."""
        self.matching.drain()
        self.engine.waits.end()
        store_seconds = SHARE_OF_STORE * self.settings.drain_timeout / SECOND
        self._writing_out = asyncio.create_task(self.engine.write_out(store_seconds), name="write-out")
        await asyncio.sleep(0)

    async def _stop_engine(self) -> None:
        if self._writing_out is None:
            await self.engine.stop(self.settings.drain_timeout / SECOND)
            return
        self._writing_out.cancel()
        await asyncio.wait([self._writing_out])
        # The calls have had the time to drain.
        await self.engine.stop(LEAST_STOP_SECONDS)

    async def _register(self, methods: MethodTable) -> None:
        cluster_id = await self.store.write_metadata(CLUSTER_ID, self.ids.uuid())
        SystemRpc(cluster_id, "postgres12" if self.settings.is_postgresql else "sqlite").register(methods)
        SearchAttributesRpc(self.namespaces).register(methods)
        NamespaceRpc(self.namespaces, self.removal, methods, self.settings.limits, self.clock).register(methods)
        services = WorkflowServices(self.engine, self.matching, self.namespaces, self.clock, self.settings.limits)
        workflow.register(services, methods, self.removal)

    async def _open_store(self) -> None:
        """A standby waits for the file as it waits for a lease. A server that died without a word keeps anybody waiting until its leases
        have run out, if tables are to be changed."""
        said = ""
        patient_until = self.clock.now() + (LEASE if self.store.is_shared else 0)
        while True:
            try:
                await self.store.open()
                return
            except StoreInUse as error:
                if not self.settings.standby and self.clock.now() >= patient_until:
                    raise
                if str(error) != said:
                    said = str(error)
                    log.warning("%s: %s", "standing by" if self.settings.standby else "waiting", error)
                await until(self.clock, self.clock.now() + STANDBY_RETRY)

    async def _create_namespaces(self) -> None:
        """Namespaces that the settings ask for exist before the first call is answered."""
        settings = self.settings
        await self.namespaces.load()
        await self.namespaces.create_system()
        attributes = {
            name: int(IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{_snake(t)}")) for name, t in settings.search_attributes.items()
        }
        for name in settings.namespaces:
            namespace = self.namespaces.by_name(name)
            if namespace is None:
                await self.namespaces.create(
                    Namespace(id="", name=name, retention=settings.namespace_retention, search_attributes=attributes)
                )
            elif not attributes.items() <= namespace.search_attributes.items():
                namespace.search_attributes.update(attributes)
                await self.namespaces.save(namespace)


class Server:
    """A whole server in this process: ``async with Server(settings) as server``.

    clock, ids, store: given by tests. Raises StartError or StoreOpenError on entering.
    """

    def __init__(
        self, settings: ServerSettings, *, clock: Clock | None = None, ids: IdSource | None = None, store: Store | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.ids = ids or IdSource()
        self.store = store or create_store(
            settings.database, sqlite_pragmas=settings.sqlite_pragmas, synchronous_commit=settings.postgresql_synchronous_commit
        )
        self.grpc_address = ""
        self.metrics_address: str | None = None
        self._stack = AsyncExitStack()
        self._ready = False
        #: Set when another server has taken over the store, or has to: this one can only end.
        self.fenced = asyncio.Event()

    async def __aenter__(self) -> Server:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ready = False
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        owner = f"{socket.gethostname()}:{os.getpid()}:{self.ids.uuid()[:8]}"
        self.core = Core(settings, self.store, self.clock, self.ids, Registry(), owner=owner)
        self.core.engine.on_fenced = self.fenced.set
        # Up first and down last: whoever probes a server that stands by, or drains, is told that it lives and is not ready.
        http = HttpServer(observability_routes(self.core.registry, lambda: self._ready and not self.fenced.is_set()))
        stack.push_async_callback(http.stop)
        await self._answer_probes(http, may_be_taken=settings.standby)
        await self.core.start(stack)
        grpc_server = GrpcServer(self.core.dispatcher, self.clock, settings.limits, on_drain=self.core.drain)
        try:
            port = await grpc_server.start(settings.ip, settings.grpc_port)
        except ListenError as error:
            raise StartError(str(error)) from error
        stack.push_async_callback(grpc_server.stop, settings.drain_timeout / SECOND)
        self.grpc_address = f"{settings.ip}:{port}"
        if self.metrics_address is None:
            await self._take_over_probes(http)
        lag = LoopLag(self.core.metrics.event_loop_lag)
        lag.start()
        stack.callback(lag.stop)
        self._ready = True

    async def _answer_probes(self, http: HttpServer, *, may_be_taken: bool = False) -> None:
        """Listen for probes and metrics, if that is wanted. may_be_taken: a standby's port may be that of the server it waits for."""
        settings = self.settings
        if settings.metrics_port is None:
            return
        try:
            listener = listen(settings.ip, settings.metrics_port, purpose="metrics and health", flag="--metrics-port (off for none)")
        except ListenError as error:
            if not may_be_taken:
                raise StartError(str(error)) from error
            log.warning("no health answers while standing by: %s", error)
            return
        self.metrics_address = f"{settings.ip}:{await http.start(listener)}"

    async def _take_over_probes(self, http: HttpServer) -> None:
        """The server that this one waited for closes its port for probes last, after it has given up the store."""
        patient_until = self.clock.now() + PROBES_HANDOVER
        while True:
            is_last = self.clock.now() >= patient_until
            try:
                await self._answer_probes(http)
                return
            except StartError as error:
                if is_last:
                    log.error("serving without metrics and health: %s", error)
                    return
            await until(self.clock, self.clock.now() + STANDBY_RETRY // 5)


def _snake(name: str) -> str:
    return "KEYWORD_LIST" if name == "KeywordList" else name.upper()
