"""Every namespace, in memory and in the store's resources."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from temporalio.api.enums.v1 import NamespaceState

from perdure.core.clock import DAY
from perdure.core.codec import Codec
from perdure.core.ids import IdSource
from perdure.core.poison_policy import PoisonPolicy
from perdure.store.protocol import Resource, Store

RESOURCE_KIND = "namespace"

SYSTEM_NAMESPACE = "temporal-system"
SYSTEM_NAMESPACE_ID = "32049b68-7872-4094-8e63-d0dd59896a83"
"""Tools expect the system's own namespace under this name, and the same id on every server."""


class BadBinary(msgspec.Struct, frozen=True):
    """Why a build of the workers' code must not work any more, who said so, and when (nanoseconds since the epoch)."""

    reason: str
    operator: str
    created_at: int


class Namespace(msgspec.Struct, kw_only=True):
    """One namespace.

    retention: nanoseconds that closed executions are kept. state: ``temporal.api.enums.v1.NamespaceState``. replication_state:
    ``temporal.api.enums.v1.ReplicationState``, 0 for namespaces that the server made for itself. search_attributes: its own ones, name →
    ``temporal.api.enums.v1.IndexedValueType``. aliases: search attributes that were defined as aliases, field name → name.
    bad_binaries: by checksum. remove_at: of a deleted namespace, when its record goes too.
    """

    id: str
    name: str
    version: int = 0
    description: str = ""
    owner_email: str = ""
    state: int = 1
    retention: int = DAY
    data: dict[str, str] = {}
    search_attributes: dict[str, int] = {}
    replication_state: int = 0
    aliases: dict[str, str] = {}
    remove_at: int = 0
    bad_binaries: dict[str, BadBinary] = {}


_CODEC: Codec[Namespace] = Codec(Namespace)


class NamespaceRegistry:
    """Finds namespaces by name and id without asking the store; writes changes through."""

    def __init__(self, store: Store, ids: IdSource) -> None:
        self._store = store
        self._ids = ids
        #: Holds for namespaces that have none of their own.
        self.poison_policy = PoisonPolicy()
        self._by_name: dict[str, Namespace] = {}
        self._by_id: dict[str, Namespace] = {}
        #: Ids of those whose state is DELETED.
        self.deleted: set[str] = set()

    async def load(self) -> None:
        """Read every namespace from the store."""
        for resource in await self._store.list_resources(RESOURCE_KIND):
            self._remember(_CODEC.decode(resource.data))

    def id_of(self, name: str) -> str | None:
        """The id of a namespace, None when there is none of that name."""
        namespace = self._by_name.get(name)
        return namespace.id if namespace is not None else None

    def by_id(self, namespace_id: str) -> Namespace:
        """Raises KeyError."""
        return self._by_id[namespace_id]

    def find(self, namespace_id: str) -> Namespace | None:
        """The namespace of that id, None when there is none (or it was deleted)."""
        namespace = self._by_id.get(namespace_id)
        return namespace if namespace is not None and self._by_name.get(namespace.name) is namespace else None

    def name_of(self, namespace_id: str) -> str:
        """For people: the name of the namespace of that id, or the id itself once it was deleted."""
        namespace = self._by_id.get(namespace_id)
        return namespace_id if namespace is None else namespace.name

    def by_name(self, name: str) -> Namespace | None:
        return self._by_name.get(name)

    def all(self) -> list[Namespace]:
        """In the order of their names."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    async def create_system(self) -> None:
        """Make sure that the system's own namespace is there."""
        if SYSTEM_NAMESPACE not in self._by_name:
            await self.create(
                Namespace(
                    id=SYSTEM_NAMESPACE_ID,
                    name=SYSTEM_NAMESPACE,
                    description="Temporal internal system namespace",
                    owner_email="temporal-core@temporal.io",
                    retention=7 * DAY,
                )
            )

    async def create(self, namespace: Namespace) -> bool:
        """Store a new namespace; False when the name is taken. An empty id is filled in."""
        if namespace.name in self._by_name:
            return False
        namespace.id = namespace.id or self._ids.uuid()
        return await self.save(namespace)

    async def change(self, namespace_id: str, change: Callable[[Namespace], None]) -> Namespace:
        """Change a namespace and store it; again if somebody else was faster.

        Raises KeyError, and whatever `change` raises (then nothing changes).
        """
        while True:
            changed = _CODEC.decode(_CODEC.encode(self._by_id[namespace_id]))
            change(changed)
            if await self.save(changed):
                return changed
            await self.load()

    async def save(self, namespace: Namespace) -> bool:
        """Store a changed namespace; False when somebody else changed it first."""
        expected, namespace.version = namespace.version, namespace.version + 1
        resource = Resource(RESOURCE_KIND, namespace.id, namespace.name, namespace.version, _CODEC.encode(namespace))
        if not await self._store.put_resource(resource, expected):
            namespace.version = expected
            return False
        self._remember(namespace)
        return True

    async def remove(self, namespace_id: str) -> None:
        """Forget a deleted namespace and free its name. Calls that are under way still find it by its id."""
        await self._store.delete_resource(RESOURCE_KIND, namespace_id)
        self.deleted.discard(namespace_id)
        namespace = self._by_id[namespace_id]
        if self._by_name.get(namespace.name) is namespace:
            del self._by_name[namespace.name]

    def _remember(self, namespace: Namespace) -> None:
        old = self._by_id.get(namespace.id)
        if old is not None and old.name != namespace.name:
            self._by_name.pop(old.name, None)
        self._by_name[namespace.name] = namespace
        self._by_id[namespace.id] = namespace
        if namespace.state == NamespaceState.NAMESPACE_STATE_DELETED:
            self.deleted.add(namespace.id)
