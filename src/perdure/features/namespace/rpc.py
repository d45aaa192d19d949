"""RegisterNamespace, DescribeNamespace, ListNamespaces, UpdateNamespace, DeprecateNamespace, DeleteNamespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import NamespaceState, ReplicationState
from temporalio.api.errordetails.v1 import NamespaceAlreadyExistsFailure
from temporalio.api.namespace.v1 import NamespaceConfig, UpdateNamespaceInfo
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest, DeleteNamespaceResponse
from temporalio.api.replication.v1 import NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import (
    DeprecateNamespaceRequest,
    DeprecateNamespaceResponse,
    DescribeNamespaceRequest,
    DescribeNamespaceResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    RegisterNamespaceRequest,
    RegisterNamespaceResponse,
    UpdateNamespaceRequest,
    UpdateNamespaceResponse,
)

from perdure.core.call import OPERATOR_SERVICE, Call, MethodTable
from perdure.core.clock import Clock, duration_ns
from perdure.core.compatibility import CLUSTER_NAME
from perdure.core.errors import ApiError, Code, failed_precondition, invalid_argument, namespace_not_found
from perdure.core.limits import LONGEST_DURATION, Limits
from perdure.core.poison_policy import NAMESPACE_KEY, parse_poison_policy
from perdure.features.namespace.aliases import upsert_aliases
from perdure.features.namespace.describing import NamespaceDescriber
from perdure.features.namespace.registry import SYSTEM_NAMESPACE, BadBinary, Namespace, NamespaceRegistry
from perdure.features.namespace.removal import NamespaceRemoval


class NamespaceRpc:
    """Manages namespaces."""

    def __init__(
        self, namespaces: NamespaceRegistry, removal: NamespaceRemoval, methods: MethodTable, limits: Limits, clock: Clock
    ) -> None:
        self._namespaces = namespaces
        self._clock = clock
        self._removal = removal
        self._methods = methods
        self._limits = limits
        self._describer: NamespaceDescriber | None = None

    def register(self, methods: MethodTable) -> None:
        methods.handle("RegisterNamespace", self.register_namespace)
        methods.handle("DescribeNamespace", self.describe)
        methods.handle("ListNamespaces", self.list)
        methods.handle("UpdateNamespace", self.update)
        methods.handle("DeprecateNamespace", self.deprecate)
        methods.handle("DeleteNamespace", self.delete, OPERATOR_SERVICE)

    def _describe(self, namespace: Namespace) -> DescribeNamespaceResponse:
        if self._describer is None:
            self._describer = NamespaceDescriber(self._methods, self._limits)
        return self._describer.describe(namespace)

    async def register_namespace(self, request: RegisterNamespaceRequest, call: Call) -> RegisterNamespaceResponse:
        """Archival settings are let pass and have no effect, as where no archive is configured."""
        if request.is_global_namespace:
            raise invalid_argument("Cannot register global namespace when not enabled")
        retention = self._retention(request.workflow_execution_retention_period)
        if self._namespaces.by_name(request.namespace) is not None:
            raise _taken(request.namespace)
        _check_data(request.data)
        _check_clusters(request.active_cluster_name, [cluster.cluster_name for cluster in request.clusters])
        namespace = Namespace(
            id="",
            name=request.namespace,
            description=request.description,
            owner_email=request.owner_email,
            retention=retention,
            data=dict(request.data),
            replication_state=ReplicationState.REPLICATION_STATE_NORMAL,
        )
        if not await self._namespaces.create(namespace):
            raise _taken(request.namespace)
        return RegisterNamespaceResponse()

    async def describe(self, request: DescribeNamespaceRequest, call: Call) -> DescribeNamespaceResponse:
        if request.namespace and request.id:
            raise invalid_argument("GetNamespace operation failed.  Both ID and Name specified in request.")
        return self._describe(self._find(request.namespace, request.id))

    def _find(self, name: str, namespace_id: str) -> Namespace:
        namespace = self._namespaces.by_name(name) if name else self._namespaces.find(namespace_id)
        if namespace is None:
            raise namespace_not_found(name or namespace_id)
        return namespace

    async def list(self, request: ListNamespacesRequest, call: Call) -> ListNamespacesResponse:
        """In the order of their names; the token is the last name, so that pages survive what is registered and deleted in between."""
        try:
            after = request.next_page_token.decode()
        except UnicodeDecodeError:
            raise invalid_argument("Invalid NextPageToken.") from None
        size = request.page_size if request.page_size > 0 else self._limits.namespace_page_default
        found = [
            namespace
            for namespace in self._namespaces.all()
            if namespace.name > after
            and (namespace.state != NamespaceState.NAMESPACE_STATE_DELETED or request.namespace_filter.include_deleted)
        ]
        token = found[size - 1].name.encode() if len(found) > size else b""
        return ListNamespacesResponse(namespaces=[self._describe(namespace) for namespace in found[:size]], next_page_token=token)

    async def update(self, request: UpdateNamespaceRequest, call: Call) -> UpdateNamespaceResponse:
        """What is left out stays as it is; data is merged."""

        def change(namespace: Namespace) -> None:
            _update_info(namespace, request.update_info)
            self._update_config(namespace, request.config)
            if request.delete_bad_binary and namespace.bad_binaries.pop(request.delete_bad_binary, None) is None:
                raise invalid_argument(f"Bad binary checksum {request.delete_bad_binary} doesn't exists.")
            _update_replication(namespace, request.replication_config)
            if request.promote_namespace:
                raise invalid_argument(
                    "global namespace is not enabled on this cluster, cannot update global namespace or promote local namespace: "
                    f"{request.namespace}"
                )

        described = self._describe(await self._namespaces.change(call.namespace_id, change))
        return UpdateNamespaceResponse(
            namespace_info=described.namespace_info, config=described.config, replication_config=described.replication_config
        )

    def _update_config(self, namespace: Namespace, config: NamespaceConfig) -> None:
        if config.HasField("workflow_execution_retention_ttl"):
            namespace.retention = self._retention(config.workflow_execution_retention_ttl)
        now = self._clock.now()
        for checksum, bad in config.bad_binaries.binaries.items():
            namespace.bad_binaries[checksum] = BadBinary(bad.reason, bad.operator, now)
        if len(namespace.bad_binaries) > self._limits.bad_binaries:
            raise invalid_argument(f"Total resetBinaries cannot exceed the max limit: {self._limits.bad_binaries}")
        upsert_aliases(namespace, config.custom_search_attribute_aliases)

    def _retention(self, duration: Duration) -> int:
        retention = duration_ns(duration)
        if retention < self._limits.namespace_retention_minimum_ns:
            raise invalid_argument("A valid retention period is not set on request.")
        return min(retention, LONGEST_DURATION)

    async def deprecate(self, request: DeprecateNamespaceRequest, call: Call) -> DeprecateNamespaceResponse:
        def change(namespace: Namespace) -> None:
            namespace.state = NamespaceState.NAMESPACE_STATE_DEPRECATED

        await self._namespaces.change(call.namespace_id, change)
        return DeprecateNamespaceResponse()

    async def delete(self, request: DeleteNamespaceRequest, call: Call) -> DeleteNamespaceResponse:
        if request.namespace and request.namespace_id:
            raise invalid_argument("Only one of namespace name or Id should be set on request.")
        namespace = self._find(request.namespace, request.namespace_id)
        if namespace.name == SYSTEM_NAMESPACE:
            raise failed_precondition("unable to delete system namespace")
        deleted = await self._removal.delete(namespace.id, max(0, duration_ns(request.namespace_delete_delay)))
        return DeleteNamespaceResponse(deleted_namespace=deleted.name)


def _taken(name: str) -> ApiError:
    return ApiError(Code.ALREADY_EXISTS, f'Namespace "{name}" already exists', NamespaceAlreadyExistsFailure())


def _check_data(data: Mapping[str, str]) -> None:
    """Data is the owner's own, but for what the server reads from it. Raises ApiError INVALID_ARGUMENT."""
    try:
        parse_poison_policy(data.get(NAMESPACE_KEY, ""))
    except ValueError as error:
        raise invalid_argument(f"{NAMESPACE_KEY}: {error}") from None


def _update_info(namespace: Namespace, info: UpdateNamespaceInfo) -> None:
    namespace.description = info.description or namespace.description
    namespace.owner_email = info.owner_email or namespace.owner_email
    _check_data(info.data)
    namespace.data.update(info.data)
    if info.state not in (NamespaceState.NAMESPACE_STATE_UNSPECIFIED, namespace.state):
        # States go one way: registered, deprecated, deleted.
        known = (NamespaceState.NAMESPACE_STATE_DEPRECATED, NamespaceState.NAMESPACE_STATE_DELETED)
        if info.state not in known or namespace.state == NamespaceState.NAMESPACE_STATE_DELETED:
            raise invalid_argument("Invalid namespace state update.")
        namespace.state = info.state


def _update_replication(namespace: Namespace, replication: NamespaceReplicationConfig) -> None:
    if replication.state == ReplicationState.REPLICATION_STATE_HANDOVER:
        raise invalid_argument("Handover can only be set for global namespace")
    _check_clusters(replication.active_cluster_name, [cluster.cluster_name for cluster in replication.clusters])
    if replication.active_cluster_name:
        namespace.replication_state = ReplicationState.REPLICATION_STATE_NORMAL


def _check_clusters(active: str, clusters: Iterable[str]) -> None:
    names = list(clusters)
    for name in (*([active] if active else []), *names):
        if name != CLUSTER_NAME:
            raise invalid_argument(f"Invalid cluster name: {name}")
    if len(names) > 1:
        raise invalid_argument("Invalid local namespace clusters")
