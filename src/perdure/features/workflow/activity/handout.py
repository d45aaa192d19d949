"""A started attempt of an activity as its worker gets it, from a poll or eagerly."""

from __future__ import annotations

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse

from perdure.core.clock import to_timestamp
from perdure.features.workflow.activity.state import Activity
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.tokens import TaskToken, encode_token


def activity_task(step: WorkflowStep, activity: Activity) -> PollActivityTaskQueueResponse:
    """A started attempt as its worker gets it, with the options in force and its own priority."""
    key = step.key
    token = TaskToken(
        key.namespace_id, key.business_id, key.run_id, activity.scheduled_event_id, activity.attempt, stamp=activity.started_stamp,
        activity_id=activity.activity_id,
    )  # fmt: skip
    attributes, settings = activity.attributes, activity.settings
    return PollActivityTaskQueueResponse(
        task_token=encode_token(token), workflow_namespace=step.namespace.name,
        workflow_type=step.state.started.workflow_type,
        workflow_execution=WorkflowExecution(workflow_id=key.business_id, run_id=key.run_id),
        activity_type=attributes.activity_type, activity_id=attributes.activity_id,
        header=attributes.header if attributes.HasField("header") else None,
        input=attributes.input if attributes.HasField("input") else None,
        heartbeat_details=activity.heartbeat_details, scheduled_time=to_timestamp(activity.first_scheduled_at),
        current_attempt_scheduled_time=to_timestamp(activity.scheduled_at), started_time=to_timestamp(activity.started_at),
        attempt=activity.attempt, schedule_to_close_timeout=settings.schedule_to_close_timeout,
        start_to_close_timeout=settings.start_to_close_timeout, heartbeat_timeout=settings.heartbeat_timeout,
        retry_policy=activity.retry_policy, priority=activity.priority,
    )  # fmt: skip
