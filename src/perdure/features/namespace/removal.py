"""Deleting namespaces: the name is free at once, what was in it goes in the background, also after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from temporalio.api.enums.v1 import NamespaceState

from perdure.core.clock import SECOND, Clock
from perdure.core.errors import ApiError
from perdure.core.execution import RunKey
from perdure.engine.engine import Engine
from perdure.engine.upkeep import until
from perdure.features.namespace.registry import Namespace, NamespaceRegistry
from perdure.store.protocol import StoreError

log = logging.getLogger(__name__)

SUFFIX_LENGTH = 5
BATCH = 200
RETRY_AFTER = 5 * SECOND
LOOK_AGAIN_AFTER = SECOND // 10

Delete = Callable[[RunKey], Awaitable[bool]]


class NamespaceRemoval:
    """Owns the tasks that empty deleted namespaces."""

    def __init__(self, namespaces: NamespaceRegistry, engine: Engine, clock: Clock) -> None:
        self._namespaces = namespaces
        self._engine = engine
        self._clock = clock
        self._deleters: dict[str, Delete] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, kind: str, delete: Delete) -> None:
        """How executions of a kind are deleted.

        delete(key): returns whether the execution is gone; otherwise it goes by itself, when others have been told. May raise ApiError.
        """
        self._deleters[kind] = delete

    def start(self) -> None:
        """Go on with what was being deleted when the server ended. Every kind of execution must be registered."""
        assert self._deleters.keys() == self._engine.kinds.keys()
        for namespace in self._namespaces.all():
            if namespace.state == NamespaceState.NAMESPACE_STATE_DELETED and namespace.remove_at:
                self._empty_later(namespace)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def delete(self, namespace_id: str, delay: int) -> Namespace:
        """Rename a namespace and begin to empty it. delay: nanoseconds that its record stays when nothing is in it any more."""

        def change(namespace: Namespace) -> None:
            namespace.state = NamespaceState.NAMESPACE_STATE_DELETED
            namespace.name = self._free_name(namespace)
            namespace.remove_at = self._clock.now() + delay

        namespace = await self._namespaces.change(namespace_id, change)
        self._empty_later(namespace)
        return namespace

    def _free_name(self, namespace: Namespace) -> str:
        for length in range(SUFFIX_LENGTH, len(namespace.id)):
            suffix = f"-deleted-{namespace.id[:length]}"
            if namespace.name.endswith(suffix):
                return namespace.name
            if self._namespaces.by_name(namespace.name + suffix) is None:
                return namespace.name + suffix
        return f"{namespace.name}-deleted-{namespace.id}"

    def _empty_later(self, namespace: Namespace) -> None:
        task = asyncio.get_running_loop().create_task(self._empty(namespace), name=f"empty-{namespace.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _empty(self, namespace: Namespace) -> None:
        while True:
            try:
                while await self._delete_all(namespace.id):
                    await until(self._clock, self._clock.now() + LOOK_AGAIN_AFTER)
                if namespace.remove_at > self._clock.now():
                    await until(self._clock, namespace.remove_at)
                await self._namespaces.remove(namespace.id)
            except (StoreError, ApiError) as error:
                log.warning("cannot empty namespace %s yet: %s", namespace.name, error)
                await until(self._clock, self._clock.now() + RETRY_AFTER)
            else:
                return

    async def _delete_all(self, namespace_id: str) -> bool:
        """Have everything deleted that is there now; returns whether there was anything. More may come: a child is on its way, say."""
        found = False
        for kind in self._engine.kinds:
            after: tuple[int, int] | None = None
            while headers := await self._engine.store.list_headers(namespace_id, kind, after=after, limit=BATCH):
                keys = [RunKey(namespace_id, kind, header.business_id, header.run_id) for header in headers]
                await asyncio.gather(*(self._deleters[kind](key) for key in keys))
                found = True
                after = (headers[-1].start_at, headers[-1].uid)
        return found
