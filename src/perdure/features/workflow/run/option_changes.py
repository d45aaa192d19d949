"""UpdateWorkflowExecutionOptions: which of a run's options a request changes, and to what."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import Priority
from temporalio.api.history.v1 import WorkflowExecutionOptionsUpdatedEventAttributes
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions

from perdure.core.errors import failed_precondition, invalid_argument
from perdure.features.workflow.run.versioning_override import check_override
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

_OVERRIDE, _PRIORITY, _TIME_SKIPPING = "versioning_override", "priority", "time_skipping_config"
_OVERRIDE_PARTS = {"versioning_override.behavior", "versioning_override.deployment"}


def check_paths(mask: FieldMask) -> str:
    """What is wrong with a mask: "" or the message about the first path that names no field of the options."""
    for path in mask.paths:
        if not FieldMask(paths=[path]).IsValidForDescriptor(WorkflowExecutionOptions.DESCRIPTOR):  # pyright: ignore[reportArgumentType]
            return f'proto: invalid path "{path}" for message "temporal.api.workflow.v1.WorkflowExecutionOptions"'
    return ""


def options_of(state: WorkflowState) -> WorkflowExecutionOptions:
    """A run's options as they are in force."""
    return WorkflowExecutionOptions(versioning_override=state.versioning_override, priority=state.given_priority)


def check_pinned(override: VersioningOverride, workflow_id: str) -> None:
    """Refuse to pin a run to the version it has when it has none. Raises ApiError FAILED_PRECONDITION."""
    if override.HasField("pinned") and override.pinned.behavior and not override.pinned.HasField("version"):
        raise failed_precondition(
            f"must specify a specific pinned override version because workflow with id {workflow_id} has behavior Unspecified "
            "and is not yet pinned to any version"
        )


def change_options(step: WorkflowStep, wanted: WorkflowExecutionOptions, mask: FieldMask, identity: str) -> WorkflowExecutionOptions:
    """Change what the mask names, with an event unless it is so already. Returns the options that are in force then.

    Raises ApiError INVALID_ARGUMENT for a mask that cannot be followed.
    """
    merged = _merged(options_of(step.state), wanted, mask)
    if merged != options_of(step.state):
        has_override = merged.HasField("versioning_override")
        step.event(
            WorkflowExecutionOptionsUpdatedEventAttributes(
                versioning_override=merged.versioning_override if has_override else None, unset_versioning_override=not has_override,
                priority=merged.priority if merged.HasField("priority") else None, identity=identity,
            )
        )  # fmt: skip
    return merged


def check_wanted_override(wanted: WorkflowExecutionOptions, task_queue: str) -> None:
    """Raises ApiError when the run cannot be bound to the version that is asked for."""
    if wanted.HasField("versioning_override"):
        check_override(wanted.versioning_override, task_queue)


def _merged(current: WorkflowExecutionOptions, wanted: WorkflowExecutionOptions, mask: FieldMask) -> WorkflowExecutionOptions:
    if problem := check_paths(mask):
        raise invalid_argument(f"error applying update_options: {problem}")
    paths = set(mask.paths)
    parts = paths & _OVERRIDE_PARTS
    if parts and parts != _OVERRIDE_PARTS:
        raise invalid_argument("error applying update_options: versioning_override fields must be updated together")
    if any(path.startswith(f"{_OVERRIDE}.") for path in paths - _OVERRIDE_PARTS):
        raise invalid_argument("error applying update_options: versioning_override doesn't support partial updates")
    if any(path.startswith(f"{_TIME_SKIPPING}.") for path in paths):
        raise invalid_argument("error applying update_options: time_skipping_config doesn't support partial update")
    merged = WorkflowExecutionOptions()
    merged.CopyFrom(current)
    if _OVERRIDE in paths or parts:
        merged.ClearField("versioning_override")
        if wanted.HasField("versioning_override"):
            merged.versioning_override.CopyFrom(wanted.versioning_override)
    if _PRIORITY in paths:
        merged.ClearField("priority")
        if wanted.HasField("priority"):
            merged.priority.CopyFrom(wanted.priority)
    for field in Priority.DESCRIPTOR.fields:
        if f"{_PRIORITY}.{field.name}" in paths:
            setattr(merged.priority, field.name, getattr(wanted.priority, field.name))
    return merged
