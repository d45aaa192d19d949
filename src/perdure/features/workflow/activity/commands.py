"""What a workflow's code asks of its activities: schedule one, request its cancellation."""

from __future__ import annotations

from temporalio.api.command.v1 import Command, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType, Payload, Payloads
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import ActivityTaskCancelRequestedEventAttributes, ActivityTaskScheduledEventAttributes, HistoryEvent

from perdure.core.clock import duration_ns, timestamp_ns
from perdure.core.execution import Touch
from perdure.features.workflow.activity.lifecycle import cancel_activity, start_activity
from perdure.features.workflow.activity.options import check_options
from perdure.features.workflow.activity.state import Activity, count_bytes
from perdure.features.workflow.commands import (
    CommandRefused,
    Completion,
    refuse_if_too_big,
    refuse_if_too_many,
    refusing,
    require_attributes,
)
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import Status, WorkflowState
from perdure.features.workflow.step import WorkflowStep

Cause = WorkflowTaskFailedCause
E = EventType

NOT_STARTED = Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')])
"""Details of the cancellation of an activity that no worker had."""

BAD_SCHEDULE = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
BAD_CANCEL = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES

_ENDINGS = {
    E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    E.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}


@command(CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
def schedule_activity(step: WorkflowStep, command: Command, completion: Completion) -> None:
    require_attributes(command, "schedule_activity_task_command_attributes", BAD_SCHEDULE)
    wanted = command.schedule_activity_task_command_attributes
    attributes = _scheduled_attributes(wanted, completion.completed_event_id)
    with refusing(BAD_SCHEDULE):
        run_timeout = duration_ns(step.state.started.workflow_run_timeout)
        activity_type, queue = attributes.activity_type.name, step.state.task_queue
        check_options(attributes.activity_id, activity_type, attributes, run_timeout, step.limits, queue)
    _check_limits(step, wanted)
    if attributes.activity_id in step.state.activity_ids:
        cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID
        message = f"invalid history builder state for action: add-activitytask-scheduled-event, ActivityID: {attributes.activity_id}"
        raise CommandRefused(cause, message)
    event = step.event(attributes, command=command)
    if wanted.request_eager_execution and step.state.status != Status.PAUSED:
        completion.eager_activities.append(event.event_id)


def _scheduled_attributes(wanted: ScheduleActivityTaskCommandAttributes, completed_event_id: int) -> ActivityTaskScheduledEventAttributes:
    return ActivityTaskScheduledEventAttributes(
        activity_id=wanted.activity_id, activity_type=ActivityType(name=wanted.activity_type.name),
        task_queue=wanted.task_queue if wanted.HasField("task_queue") else None,
        header=wanted.header if wanted.HasField("header") else None, input=wanted.input if wanted.HasField("input") else None,
        schedule_to_close_timeout=wanted.schedule_to_close_timeout, schedule_to_start_timeout=wanted.schedule_to_start_timeout,
        start_to_close_timeout=wanted.start_to_close_timeout, heartbeat_timeout=wanted.heartbeat_timeout,
        workflow_task_completed_event_id=completed_event_id, retry_policy=wanted.retry_policy,
        use_workflow_build_id=wanted.use_workflow_build_id, priority=wanted.priority if wanted.HasField("priority") else None,
    )  # fmt: skip


def _check_limits(step: WorkflowStep, wanted: ScheduleActivityTaskCommandAttributes) -> None:
    if wanted.use_workflow_build_id and wanted.task_queue.name != step.state.task_queue:
        raise CommandRefused(BAD_SCHEDULE, "Activity with UseCompatibleVersion cannot run on different task queue.")
    message = "ScheduleActivityTaskCommandAttributes.Input exceeds size limit."
    refuse_if_too_big(wanted.input.ByteSize(), step.limits.blob_size_error_bytes, BAD_SCHEDULE, message)
    too_many = Cause.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED
    refuse_if_too_many(len(step.state.activities), step.limits.pending_activities, too_many, "pending activities")


@applies(E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
def _scheduled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = ActivityTaskScheduledEventAttributes()
    attributes.CopyFrom(event.activity_task_scheduled_event_attributes)
    at = timestamp_ns(event.event_time)
    activity = state.activities[event.event_id] = Activity(event.event_id, attributes, at, at)
    state.activity_ids[attributes.activity_id] = event.event_id
    size = attributes.ByteSize()
    state.pending_bytes += size
    activity.attributes_bytes = size - attributes.input.ByteSize() - attributes.header.ByteSize()
    count_bytes(state, activity)
    touch(activity)


def start_eager_activities(step: WorkflowStep, completion: Completion) -> list[Activity]:
    """Hand the activities that the worker asked for to that worker, with the answer to its workflow task; they never go to their queue."""
    if not step.state.is_open:
        return []
    # One that was canceled by a later command of the same task is gone.
    found = [step.state.activities[i] for i in completion.eager_activities if i in step.state.activities]
    for activity in found:
        start_activity(step, activity, completion.request.identity, step.ids.uuid())
    return found


@command(CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
def request_cancel_activity(step: WorkflowStep, command: Command, completion: Completion) -> None:
    require_attributes(command, "request_cancel_activity_task_command_attributes", BAD_CANCEL)
    scheduled_event_id = command.request_cancel_activity_task_command_attributes.scheduled_event_id
    if scheduled_event_id <= 0:
        raise CommandRefused(BAD_CANCEL, "ScheduledEventId is not set on RequestCancelActivityTaskCommand.")
    activity = step.state.activities.get(scheduled_event_id)
    if activity.cancel_requested if activity is not None else not _ended_unseen(step, scheduled_event_id):
        action = "add-activitytask-cancel-requested-event"
        raise CommandRefused(BAD_CANCEL, f"invalid history builder state for action: {action}, ScheduledEventID: {scheduled_event_id}")
    step.event(
        ActivityTaskCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id, workflow_task_completed_event_id=completion.completed_event_id
        ),
        command=command,
    )
    if activity is not None and not activity.started_at:
        cancel_activity(step, activity, NOT_STARTED, completion.request.identity)


def _ended_unseen(step: WorkflowStep, scheduled_event_id: int) -> bool:
    """Whether the activity ended while the worker was at its task, so that it could not know."""
    return any(
        event.event_type in _ENDINGS and getattr(event, _ENDINGS[event.event_type]).scheduled_event_id == scheduled_event_id
        for event in step.waiting_events
    )


@applies(E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
def _cancel_requested(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    activity = state.activities.get(event.activity_task_cancel_requested_event_attributes.scheduled_event_id)
    if activity is not None:
        activity.cancel_requested = True
        activity.cancel_requested_event_id = event.event_id
        touch(activity)
