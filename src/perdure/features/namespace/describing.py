"""What clients are told about a namespace."""

from __future__ import annotations

from temporalio.api.enums.v1 import ArchivalState
from temporalio.api.namespace.v1 import BadBinaries, BadBinaryInfo, NamespaceConfig, NamespaceInfo
from temporalio.api.replication.v1 import ClusterReplicationConfig, NamespaceReplicationConfig
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse

from perdure.core.call import MethodTable
from perdure.core.clock import to_duration, to_timestamp
from perdure.core.compatibility import CLUSTER_NAME
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace

CAPABILITIES = {
    "eager_workflow_start": ("StartWorkflowExecution",),
    "sync_update": ("UpdateWorkflowExecution",),
    "async_update": ("UpdateWorkflowExecution",),
    "worker_heartbeats": ("RecordWorkerHeartbeat",),
    "reported_problems_search_attribute": ("RespondWorkflowTaskFailed",),
    "workflow_pause": ("PauseWorkflowExecution",),
    "standalone_activities": ("StartActivityExecution",),
    "standalone_activity_start_delay": ("StartActivityExecution",),
    "standalone_activity_batch_operations": ("StartActivityExecution", "StartBatchOperation"),
    "standalone_activity_operator_commands": ("StartActivityExecution",),
    "standalone_nexus_operation": ("StartNexusOperationExecution",),
    "worker_poll_complete_on_shutdown": ("ShutdownWorker",),
    "poller_autoscaling": ("PollWorkflowTaskQueue",),
    "workflow_update_callbacks": ("UpdateWorkflowExecution",),
    "workflow_task_completion_pagination": ("RespondWorkflowTaskCompleted",),
}
"""Capability → the RPCs it stands for: clients use what they are told is there, so it is told only with their handlers in place."""


class NamespaceDescriber:
    """Describes namespaces. Made after every handler is registered."""

    def __init__(self, methods: MethodTable, limits: Limits) -> None:
        self._capabilities = NamespaceInfo.Capabilities(
            **{name: all(methods.get(rpc).handler is not None for rpc in rpcs) for name, rpcs in CAPABILITIES.items()}
        )
        self._limits = NamespaceInfo.Limits(
            blob_size_limit_error=limits.blob_size_error_bytes,
            memo_size_limit_error=limits.memo_size_error_bytes,
            workflow_task_completion_size_limit_error=limits.workflow_task_completion_buffer_bytes,
        )

    def describe(self, namespace: Namespace) -> DescribeNamespaceResponse:
        return DescribeNamespaceResponse(
            namespace_info=NamespaceInfo(
                name=namespace.name,
                id=namespace.id,
                state=namespace.state,  # pyright: ignore[reportArgumentType]
                description=namespace.description,
                owner_email=namespace.owner_email,
                data=namespace.data,
                capabilities=self._capabilities,
                limits=self._limits,
                supports_schedules=True,
            ),
            config=NamespaceConfig(
                workflow_execution_retention_ttl=to_duration(namespace.retention),
                bad_binaries=_bad_binaries(namespace),
                history_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
                visibility_archival_state=ArchivalState.ARCHIVAL_STATE_DISABLED,
                custom_search_attribute_aliases=namespace.aliases,
            ),
            replication_config=NamespaceReplicationConfig(
                active_cluster_name=CLUSTER_NAME,
                clusters=[ClusterReplicationConfig(cluster_name=CLUSTER_NAME)],
                state=namespace.replication_state,  # pyright: ignore[reportArgumentType]
            ),
        )


def _bad_binaries(namespace: Namespace) -> BadBinaries:
    return BadBinaries(
        binaries={
            checksum: BadBinaryInfo(reason=bad.reason, operator=bad.operator, create_time=to_timestamp(bad.created_at))
            for checksum, bad in namespace.bad_binaries.items()
        }
    )
