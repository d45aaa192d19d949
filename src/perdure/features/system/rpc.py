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

CAPABILITIES = {
    "signal_and_query_header": ("SignalWorkflowExecution", "QueryWorkflow"),
    "internal_error_differentiation": (),
    "activity_failure_include_heartbeat": ("RespondActivityTaskFailed",),
    "supports_schedules": ("CreateSchedule",),
    "encoded_failure_attributes": (),
    "build_id_based_versioning": ("UpdateWorkerBuildIdCompatibility",),
    "upsert_memo": ("RespondWorkflowTaskCompleted",),
    "eager_workflow_start": ("StartWorkflowExecution",),
    "sdk_metadata": ("RespondWorkflowTaskCompleted",),
    "count_group_by_execution_status": ("CountWorkflowExecutions",),
    "nexus": ("PollNexusTaskQueue", "RespondNexusTaskCompleted", "RespondNexusTaskFailed"),
    "server_scaled_deployments": ("DescribeWorkerDeployment",),
}
"""Capability → the RPCs it stands for; none where it is a property of all answers."""


class SystemRpc:
    """Answers about the server.

    cluster_id: a UUID that stays the same for as long as the store does. store_name: what keeps the data, "sqlite" for example.
    """

    def __init__(self, cluster_id: str, store_name: str) -> None:
        self._methods: MethodTable
        self._system_info: bytes | None = None
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
        self._methods = methods
        methods.handle("GetSystemInfo", self.get_system_info)
        methods.handle("GetClusterInfo", self.get_cluster_info)

    async def get_system_info(self, request: GetSystemInfoRequest, call: Call) -> bytes:
        if self._system_info is None:  # by now, every handler is registered
            capabilities = GetSystemInfoResponse.Capabilities(**self._methods.told(CAPABILITIES))
            self._system_info = GetSystemInfoResponse(server_version=SERVER_VERSION, capabilities=capabilities).SerializeToString()
        return self._system_info

    async def get_cluster_info(self, request: GetClusterInfoRequest, call: Call) -> bytes:
        return self._cluster_info
