"""GetSystemInfo and GetClusterInfo."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import (
    GetClusterInfoRequest,
    GetClusterInfoResponse,
    GetSystemInfoRequest,
    GetSystemInfoResponse,
)

from perdure.core.call import Call, MethodTable
from perdure.core.compatibility import CLUSTER_NAME, SERVER_VERSION, SUPPORTED_CLIENTS

# Fixed values of a cluster that replicates to no other.
_INITIAL_FAILOVER_VERSION = 1
_FAILOVER_VERSION_INCREMENT = 10


class SystemRpc:
    """Answers about the server.

    cluster_id: a UUID that stays the same for as long as the store does. store_name: what keeps the data, "sqlite" for example.
    """

    def __init__(self, cluster_id: str, store_name: str) -> None:
        self._system_info = GetSystemInfoResponse(
            server_version=SERVER_VERSION,
            capabilities=GetSystemInfoResponse.Capabilities(
                signal_and_query_header=True,
                internal_error_differentiation=True,
                activity_failure_include_heartbeat=True,
                supports_schedules=True,
                encoded_failure_attributes=True,
                build_id_based_versioning=True,
                upsert_memo=True,
                eager_workflow_start=True,
                sdk_metadata=True,
                count_group_by_execution_status=True,
                nexus=True,
                server_scaled_deployments=True,
            ),
        ).SerializeToString()
        self._cluster_info = GetClusterInfoResponse(
            supported_clients=SUPPORTED_CLIENTS,
            server_version=SERVER_VERSION,
            cluster_id=cluster_id,
            cluster_name=CLUSTER_NAME,
            history_shard_count=1,
            persistence_store=store_name,
            visibility_store=store_name,
            initial_failover_version=_INITIAL_FAILOVER_VERSION,
            failover_version_increment=_FAILOVER_VERSION_INCREMENT,
        ).SerializeToString()

    def register(self, methods: MethodTable) -> None:
        methods.handle("GetSystemInfo", self.get_system_info)
        methods.handle("GetClusterInfo", self.get_cluster_info)

    async def get_system_info(self, request: GetSystemInfoRequest, call: Call) -> bytes:
        return self._system_info

    async def get_cluster_info(self, request: GetClusterInfoRequest, call: Call) -> bytes:
        return self._cluster_info
