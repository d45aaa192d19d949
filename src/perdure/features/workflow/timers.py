"""Workflow timers: started and canceled by command, fired by the clock."""

from __future__ import annotations

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent, TimerCanceledEventAttributes, TimerFiredEventAttributes, TimerStartedEventAttributes

from perdure.core.clock import duration_ns, timestamp_ns
from perdure.core.execution import Touch
from perdure.core.jobs import decides
from perdure.features.workflow.commands import CommandRefused, Completion, refusing, require_attributes
from perdure.features.workflow.jobs import FireTimer
from perdure.features.workflow.registry import applies, command
from perdure.features.workflow.state import Timer, WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.task.lifecycle import schedule_task
from perdure.features.workflow.validation import check_duration

Cause = WorkflowTaskFailedCause


@command(CommandType.COMMAND_TYPE_START_TIMER)
def start_timer(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
    require_attributes(command, "start_timer_command_attributes", cause)
    attributes = command.start_timer_command_attributes
    timer_id = attributes.timer_id
    _check_id(step, timer_id, "StartTimerCommand", cause)
    with refusing(cause, suffix=f". TimerId={timer_id}"):
        check_duration(attributes.start_to_fire_timeout, "An invalid StartToFireTimeout is set on StartTimerCommand")
    if timer_id in step.state.timers:
        duplicate = Cause.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID
        raise CommandRefused(duplicate, f"invalid history builder state for action: add-timer-started-event, TimerID: {timer_id}")
    step.event(
        TimerStartedEventAttributes(
            timer_id=timer_id,
            start_to_fire_timeout=attributes.start_to_fire_timeout if attributes.HasField("start_to_fire_timeout") else None,
            workflow_task_completed_event_id=completion.completed_event_id,
        ),
        command=command,
    )


@command(CommandType.COMMAND_TYPE_CANCEL_TIMER)
def cancel_timer(step: WorkflowStep, command: Command, completion: Completion) -> None:
    cause = Cause.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    require_attributes(command, "cancel_timer_command_attributes", cause)
    timer_id = command.cancel_timer_command_attributes.timer_id
    _check_id(step, timer_id, "CancelTimerCommand", cause)
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
        ),
        command=command,
    )


def _check_id(step: WorkflowStep, timer_id: str, command_name: str, cause: WorkflowTaskFailedCause.ValueType) -> None:
    if not timer_id:
        raise CommandRefused(cause, f"TimerId is not set on {command_name}.")
    limit = step.limits.max_id_length
    if (length := len(timer_id.encode())) > limit:
        raise CommandRefused(cause, f"TimerId on {command_name} exceeds length limit. TimerId={timer_id} Length={length} Limit={limit}")


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
