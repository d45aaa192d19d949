"""Workflow timers: started and canceled by command, fired by the clock."""

from __future__ import annotations

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent, TimerCanceledEventAttributes, TimerFiredEventAttributes, TimerStartedEventAttributes

from perdure.core.clock import duration_ns, timestamp_ns
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow.completion import CommandRefused, Completion
from perdure.features.workflow.jobs import FireTimer
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import Timer, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task import schedule_task


@command(CommandType.COMMAND_TYPE_START_TIMER)
def start_timer(step: WorkflowStep, command: Command, completion: Completion) -> None:
    attributes = command.start_timer_command_attributes
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
    if not attributes.timer_id:
        raise CommandRefused(cause, "TimerId is not set on StartTimerCommand.")
    if attributes.timer_id in step.state.timers:
        duplicate = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID
        raise CommandRefused(duplicate, f"invalid history builder state for action: add-timer-started-event, TimerID: {attributes.timer_id}")
    step.event(
        TimerStartedEventAttributes(
            timer_id=attributes.timer_id,
            start_to_fire_timeout=attributes.start_to_fire_timeout,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        user_metadata=command.user_metadata,
    )


@command(CommandType.COMMAND_TYPE_CANCEL_TIMER)
def cancel_timer(step: WorkflowStep, command: Command, completion: Completion) -> None:
    timer_id = command.cancel_timer_command_attributes.timer_id
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    if not timer_id:
        raise CommandRefused(cause, "TimerId is not set on CancelTimerCommand.")
    timer = step.state.timers.get(timer_id)
    if timer is not None:
        started_event_id = timer.started_event_id
    elif (fired := step.drop_buffered(EventType.EVENT_TYPE_TIMER_FIRED, timer_id=timer_id)) is not None:
        started_event_id = fired.timer_fired_event_attributes.started_event_id
    else:
        raise CommandRefused(cause, f"invalid history builder state for action: add-timer-canceled-event, TimerID: {timer_id}")
    step.event(
        TimerCanceledEventAttributes(
            timer_id=timer_id,
            started_event_id=started_event_id,
            workflow_task_completed_event_id=completion.completed_event_id,
            identity=completion.request.identity,
        )
    )


@decides(FireTimer)
def fire_timer(step: WorkflowStep, job: FireTimer) -> None:
    step.event(TimerFiredEventAttributes(timer_id=job.timer_id, started_event_id=job.started_event_id))
    schedule_task(step)


@applies(EventType.EVENT_TYPE_TIMER_STARTED)
def _started(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    attributes = event.timer_started_event_attributes
    fire_at = timestamp_ns(event.event_time) + duration_ns(attributes.start_to_fire_timeout)
    timer = state.timers[attributes.timer_id] = Timer(attributes.timer_id, event.event_id, fire_at)
    touch(timer)


@applies(EventType.EVENT_TYPE_TIMER_FIRED)
def _fired(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.timers.pop(event.timer_fired_event_attributes.timer_id, None)


@applies(EventType.EVENT_TYPE_TIMER_CANCELED)
def _canceled(state: WorkflowState, event: HistoryEvent, touch: Touch) -> None:
    state.timers.pop(event.timer_canceled_event_attributes.timer_id, None)
