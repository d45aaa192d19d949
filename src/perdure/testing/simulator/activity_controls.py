"""Random requests of operators about activities, in both of their forms."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import RetryPolicy, WorkflowExecution
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import MILLISECOND, SECOND, to_duration
from perdure.testing.simulator.replay import ACTIVITY_TYPE, NAMESPACE

KINDS = ("pause", "pause", "pause", "unpause", "reset", "reset", "change")
FLAGS = ("reset_attempts", "reset_heartbeat", "keep_paused", "restore_original_options")
_NAMES = {"pause": "PauseActivity", "unpause": "UnpauseActivity", "reset": "ResetActivity", "change": "UpdateActivityOptions"}
_EXECUTION_NAMES = {
    "pause": "PauseActivityExecution",
    "unpause": "UnpauseActivityExecution",
    "reset": "ResetActivityExecution",
    "change": "UpdateActivityExecutionOptions",
}


def random_control(rng: random.Random, request_id: str, execution: WorkflowExecution, activity_id: str) -> tuple[str, Any]:
    """A method and its request: mostly about the one activity, else about all of the execution. request_id: for those that have one."""
    kind = rng.choice(KINDS)
    chance = rng.random()
    names = _EXECUTION_NAMES if chance < 0.4 else _NAMES
    request: Any = getattr(service, f"{names[kind]}Request")()
    request.namespace = NAMESPACE
    request.identity = "operator"
    if names is _EXECUTION_NAMES:
        request.workflow_id, request.run_id, request.activity_id = execution.workflow_id, execution.run_id, activity_id
        request.request_id = request_id
    else:
        request.execution.CopyFrom(execution)
        if chance < 0.8:
            request.id = activity_id
        else:
            request.type = ACTIVITY_TYPE
        if kind == "pause":
            request.request_id = request_id
    _fill(rng, kind, request)
    return names[kind], request


def _fill(rng: random.Random, kind: str, request: Any) -> None:
    fields = {field.name for field in request.DESCRIPTOR.fields}
    for flag in FLAGS:
        if flag in fields:
            setattr(request, flag, rng.random() < 0.3)
    if kind in ("unpause", "reset") and rng.random() < 0.3:
        request.jitter.CopyFrom(to_duration(rng.choice((1, 5)) * SECOND))
    if kind != "change":
        return
    if rng.random() < 0.2:
        request.restore_original = True
        return
    options = ActivityOptions(
        start_to_close_timeout=to_duration(rng.choice((2, 10, 60)) * SECOND),
        heartbeat_timeout=to_duration(rng.choice((1, 5)) * SECOND),
        retry_policy=RetryPolicy(
            maximum_attempts=rng.choice((0, 1, 3)), initial_interval=to_duration(rng.choice((10, 1000)) * MILLISECOND)
        ),
    )
    paths = ["start_to_close_timeout", "heartbeat_timeout", "retry_policy.maximum_attempts", "retry_policy.initial_interval"]
    request.activity_options.CopyFrom(options)
    request.update_mask.CopyFrom(FieldMask(paths=rng.sample(paths, rng.randrange(1, len(paths)))))
