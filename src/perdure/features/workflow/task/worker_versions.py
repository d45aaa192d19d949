"""What history says about the version of the worker that took a task."""

from __future__ import annotations

from typing import Protocol

from temporalio.api.common.v1 import WorkerVersionCapabilities, WorkerVersionStamp
from temporalio.api.deployment.v1 import WorkerDeploymentOptions
from temporalio.api.enums.v1 import WorkerVersioningMode
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskFailedRequest


class Poll(Protocol):
    """A poll request: both kinds say the version of their worker alike."""

    @property
    def worker_version_capabilities(self) -> WorkerVersionCapabilities: ...
    @property
    def deployment_options(self) -> WorkerDeploymentOptions: ...


def stamp_of(poll: Poll) -> WorkerVersionStamp | None:
    """The stamp for a started event: the build id, unless the worker is part of a deployment (whose version is kept elsewhere)."""
    options, capabilities = poll.deployment_options, poll.worker_version_capabilities
    if options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED and options.deployment_name:
        return None
    if not capabilities.build_id or (capabilities.use_versioning and capabilities.deployment_series_name):
        return None
    return WorkerVersionStamp(build_id=capabilities.build_id, use_versioning=capabilities.use_versioning)


def answering_stamp(answer: RespondWorkflowTaskCompletedRequest | RespondWorkflowTaskFailedRequest) -> WorkerVersionStamp | None:
    """The stamp for a started event that comes with the answer to a task: its own, written only then, or that of the task that the worker
    gets in return. Build-id sets keep their own books."""
    if isinstance(answer, RespondWorkflowTaskCompletedRequest):
        stamp = answer.worker_version_stamp if answer.HasField("worker_version_stamp") else None
    else:
        stamp = answer.worker_version if answer.HasField("worker_version") else None  # pyright: ignore[reportDeprecated]
    return None if stamp is None or stamp.use_versioning else stamp
