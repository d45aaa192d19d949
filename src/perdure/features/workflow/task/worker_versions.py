"""What history says about the version of the worker that took a task."""

from __future__ import annotations

from typing import Protocol

from temporalio.api.common.v1 import WorkerVersionCapabilities, WorkerVersionStamp
from temporalio.api.deployment.v1 import WorkerDeploymentOptions
from temporalio.api.enums.v1 import WorkerVersioningMode
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest


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


def inline_stamp(completion: RespondWorkflowTaskCompletedRequest) -> WorkerVersionStamp | None:
    """The stamp for a task that a worker gets with the answer to the one before. Build-id sets keep their own books."""
    if not completion.HasField("worker_version_stamp") or completion.worker_version_stamp.use_versioning:
        return None
    return completion.worker_version_stamp
