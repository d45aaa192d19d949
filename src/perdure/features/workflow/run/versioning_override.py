"""A run may be bound to a worker version, or to none, whatever its workers say: the override of its versioning behaviour."""

from __future__ import annotations

from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import VersioningBehavior
from temporalio.api.workflow.v1 import VersioningOverride

from perdure.core.errors import failed_precondition, invalid_argument

_PINNED = VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
_AUTO_UPGRADE = VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE


def check_override(override: VersioningOverride, task_queue: str) -> None:
    """Refuse an override that says nothing, or that names a version which no worker of the task queue has.

    Raises ApiError INVALID_ARGUMENT or FAILED_PRECONDITION.
    """
    _check_structure(override)
    version = target(current_form(override))
    if version is not None:
        raise failed_precondition(
            f"Pinned version '{version.deployment_name}:{version.build_id}' is not present in task queue '{task_queue}' of type 'Workflow'"
        )


def _check_structure(override: VersioningOverride) -> None:
    match override.WhichOneof("override"):
        case "auto_upgrade":
            if not override.auto_upgrade:
                raise invalid_argument("auto-upgrade override must be true")
        case "pinned":
            if not override.pinned.HasField("version"):
                raise invalid_argument("must provide version if override is pinned.")
            if not override.pinned.behavior:
                raise invalid_argument("must specify pinned override behavior if override is pinned.")
        case "one_time":
            if not override.one_time.HasField("target_deployment_version"):
                raise invalid_argument("must provide target deployment version if override is one-time.")
        case None:
            _check_deprecated(override)


def _check_deprecated(override: VersioningOverride) -> None:
    if override.behavior == _PINNED:
        if override.HasField("deployment"):
            if not override.deployment.series_name:
                raise invalid_argument("deployment series name cannot be empty")
            if not override.deployment.build_id:
                raise invalid_argument("deployment build ID cannot be empty")
        elif not override.pinned_version:
            raise invalid_argument("must provide deployment (deprecated) or pinned version if behavior is 'PINNED'")
        elif "." not in override.pinned_version:
            raise invalid_argument(f'invalid version string, expected format is "<deployment_name>.<build_id>": {override.pinned_version}')
    elif override.behavior == _AUTO_UPGRADE:
        if override.HasField("deployment"):
            raise invalid_argument("only provide deployment if behavior is 'PINNED'")
        if override.pinned_version:
            raise invalid_argument("only provide pinned version if behavior is 'PINNED'")
    elif override.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_UNSPECIFIED:
        raise invalid_argument("override behavior is required")
    else:
        raise invalid_argument(f"override behavior {int(override.behavior)} not recognized")


def current_form(override: VersioningOverride) -> VersioningOverride:
    """The same override without deprecated fields."""
    current = VersioningOverride()
    match override.WhichOneof("override"):
        case "pinned":
            current.pinned.CopyFrom(override.pinned)
        case "auto_upgrade":
            current.auto_upgrade = override.auto_upgrade
        case "one_time":
            current.one_time.CopyFrom(override.one_time)
        case None if override.behavior == _AUTO_UPGRADE:
            current.auto_upgrade = True
        case None if override.behavior == _PINNED:
            current.pinned.behavior = VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED
            if override.pinned_version:
                name, _, build_id = override.pinned_version.partition(".")
                current.pinned.version.CopyFrom(WorkerDeploymentVersion(deployment_name=name, build_id=build_id))
            else:
                deployment = override.deployment
                current.pinned.version.CopyFrom(
                    WorkerDeploymentVersion(deployment_name=deployment.series_name, build_id=deployment.build_id)
                )
        case _:
            pass
    return current


def target(override: VersioningOverride) -> WorkerDeploymentVersion | None:
    """The version that an override binds a run to; None when it binds it to none."""
    match override.WhichOneof("override"):
        case "pinned":
            return override.pinned.version
        case "one_time":
            return override.one_time.target_deployment_version
        case _:
            return None
