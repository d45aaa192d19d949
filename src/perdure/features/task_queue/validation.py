"""What polls and answers may say about their queue and their worker: the official checks, in the official words and order.

Each function raises ApiError INVALID_ARGUMENT.
"""

from __future__ import annotations

from typing import Protocol

from temporalio.api.deployment.v1 import WorkerDeploymentOptions
from temporalio.api.enums.v1 import TaskQueueKind, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import TaskQueue

from perdure.core.errors import invalid_argument
from perdure.core.limits import Limits

RESERVED_PREFIX = "/_sys/"

DEPLOYMENT_FIELD_OVERHEAD = len("temporal-sys-worker-deployment-version:")
"""Name and build id of a deployment version together make an id of the official server, behind this."""


class Versioned(Protocol):
    """What a worker says about its version by the older protocol, in polls and in answers."""

    @property
    def build_id(self) -> str: ...
    @property
    def use_versioning(self) -> bool: ...


def check_identity(identity: str, limit: int) -> None:
    """limit: bytes."""
    if len(identity) * 4 > limit and len(identity.encode()) > limit:
        raise invalid_argument("Identity length exceeds limit.")


def check_queue(queue: TaskQueue | None, limit: int, *, partition: bool = False) -> None:
    """Refuse a queue that is missing, nameless, over-long (bytes) or reserved. An unset kind becomes NORMAL.

    partition: names of partitions are fine too.
    """
    if queue is None:
        raise invalid_argument("taskQueue is not set")
    if not queue.kind:
        queue.kind = TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    if not queue.name:
        raise invalid_argument("missing task queue name")
    _check_name(queue.name, limit, partition=partition)
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY and queue.normal_name:
        _check_name(queue.normal_name, limit, partition=True)


def _check_name(name: str, limit: int, *, partition: bool) -> None:
    if len(name) * 4 > limit and len(name.encode()) > limit:
        raise invalid_argument("taskQueue length exceeds limit")
    if name.startswith(RESERVED_PREFIX) and not partition:
        raise invalid_argument(f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}")


def check_version(version: Versioned, options: WorkerDeploymentOptions | None, queue: TaskQueue | None, limits: Limits) -> None:
    """Refuse a worker's version that is only half said, or too long."""
    is_nameless = queue is not None and queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY and not queue.normal_name
    if is_nameless and (version.use_versioning or options is not None):
        raise invalid_argument("NormalName must be set on sticky queue when UseVersioning is true or DeploymentOptions are set.")
    if version.use_versioning and not version.build_id:
        raise invalid_argument("WorkerVersionStamp must be present if UseVersioning is true.")
    if len(version.build_id.encode()) > limits.build_id_bytes:
        raise invalid_argument("Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.")
    if options is not None and options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        if not options.deployment_name or not options.build_id:
            raise invalid_argument("Deployment name and build id must be set together.")
        _check_deployment_field("worker deployment name", options.deployment_name, limits.max_id_length, forbidden=".:")
        _check_deployment_field("worker deployment build ID", options.build_id, limits.max_id_length)


def _check_deployment_field(what: str, value: str, limit: int, forbidden: str = "") -> None:
    if len(value.encode()) > (limit - DEPLOYMENT_FIELD_OVERHEAD) // 2:
        raise invalid_argument(f"size of {what} larger than the maximum allowed")
    for character in forbidden:
        if character in value:
            raise invalid_argument(f"{what} cannot contain '{character}'")
    if value.startswith("__"):
        raise invalid_argument(f"{what} cannot start with '__'")
