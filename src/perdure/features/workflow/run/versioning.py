"""Which version of the workers a run is bound to, and what the runs that come from it inherit of that.

| comes from the run by | inherits the version of a pinned run                              | inherits a pinned override |
|-----------------------|-------------------------------------------------------------------|----------------------------|
| continue as new       | on the same task queue, unless the command chooses otherwise      | on the same task queue     |
| retry                 | if the run had inherited it, too                                  | yes                        |
| cron                  | no                                                                | yes                        |
| starting a child      | on the same task queue of the same namespace, without an override | likewise                   |

On another task queue a version is inherited only if it has workers there. No version has workers anywhere as long as the server keeps no
deployments. For the same reason nothing is inherited from a run that upgrades automatically: that takes the deployment's revision.
"""

from __future__ import annotations

from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import VersioningBehavior
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes, WorkflowTaskCompletedEventAttributes

from perdure.features.workflow.run.versioning_override import target
from perdure.features.workflow.state import Versioning, WorkflowState

PINNED = VersioningBehavior.VERSIONING_BEHAVIOR_PINNED

Started = WorkflowExecutionStartedEventAttributes


def apply_started(state: WorkflowState, attributes: Started) -> None:
    """The run begins on the version that it inherits."""
    if attributes.HasField("inherited_pinned_version"):
        state.versioning = Versioning(PINNED, attributes.inherited_pinned_version)


def apply_task_completed(state: WorkflowState, attributes: WorkflowTaskCompletedEventAttributes) -> None:
    """Every completed workflow task says anew how the run is bound."""
    behavior, name = attributes.versioning_behavior, attributes.worker_deployment_name
    version = attributes.deployment_version if behavior and attributes.HasField("deployment_version") else None
    old = state.versioning
    if (old.behavior, old.version, old.deployment_name) != (behavior, version, name):
        state.versioning = Versioning(behavior, version, name)


def pinned_version(state: WorkflowState) -> WorkerDeploymentVersion | None:
    """The version that the run cannot leave, by an override or by what its worker says; None when it is not pinned."""
    override = state.versioning_override
    if override is not None:
        return target(override)
    return state.versioning.version if state.versioning.behavior == PINNED else None


def hand_on(state: WorkflowState, new: Started, *, same_queue: bool, version: bool) -> None:
    """Fill in what the started event of a run inherits. same_queue: it begins where this run is. version: not only an override."""
    pinned = pinned_version(state)
    if pinned is None or not same_queue:
        return
    if version and not new.HasField("versioning_override"):
        new.inherited_pinned_version.CopyFrom(pinned)
    override = state.versioning_override
    if override is not None and not new.HasField("versioning_override"):
        new.versioning_override.CopyFrom(override)
