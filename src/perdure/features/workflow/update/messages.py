"""Protocol messages: how updates travel with workflow tasks, and how workers answer them.

A task carries one message per update, to be handled behind the events up to the one before its started event. A completion brings messages
back; a command gives each of them its place among the other commands, those without one come behind them all.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, WorkflowTaskFailedCause
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Rejection, Request, Response

from perdure.core.errors import invalid_argument
from perdure.features.workflow.commands import CommandRefused, Completion
from perdure.features.workflow.registry import command
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep
from perdure.features.workflow.update import lifecycle as updates
from perdure.features.workflow.update.metrics import count_sent
from perdure.features.workflow.update.pending import PendingStatus, PendingUpdate

PROTOCOL = "temporal.api.update.v1"
PROVISIONALLY_COMPLETED = "ProvisionallyCompleted"
CAUSE = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
_BODIES: dict[str, type[ProtoMessage]] = {t.DESCRIPTOR.full_name: t for t in (Acceptance, Rejection, Response, Request)}


# -- to the worker --------------------------------------------------------------------------------------------
def outgoing(step: WorkflowStep, *, include_sent: bool) -> list[Message]:
    """The messages that go with the task that was just started.

    include_sent: those that went with an earlier task too, for that one failed or was lost; not if the worker is still busy with that one
    (heartbeat).
    """
    messages: list[Message] = []
    sequencing_event_id = step.task.started_event_id - 1
    updates.take_readmitted(step)
    for pending in list(step.volatile.updates.values()):
        if pending.status == PendingStatus.SENT and not include_sent:
            continue
        updates.mark_sent(step, pending)
        count_sent(step)
        if pending.request is not None:
            body = Any()
            body.Pack(pending.request)
            messages.append(
                Message(id=f"{pending.update_id}/request", protocol_instance_id=pending.update_id, event_id=sequencing_event_id, body=body)
            )
    return messages


# -- from the worker ------------------------------------------------------------------------------------------
@command(CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
def take_message(step: WorkflowStep, command: Command, completion: Completion) -> None:
    """Handle a message at its place among the commands."""
    if not command.HasField("protocol_message_command_attributes"):
        raise CommandRefused(CAUSE, "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand.")
    message_id = command.protocol_message_command_attributes.message_id
    if not message_id:
        raise CommandRefused(CAUSE, "MessageID is not set on ProtocolMessageCommand.")
    message = next((m for m in completion.messages if m.id == message_id), None)
    if message is None:
        raise CommandRefused(CAUSE, f"ProtocolMessageCommand referenced absent message ID {message_id}")
    completion.messages.remove(message)
    _handle(step, message, completion)


def take_rest(step: WorkflowStep, completion: Completion) -> None:
    """Handle the messages that no command gave a place, and reject the updates that the worker did not mention."""
    for message in completion.messages:
        _handle(step, message, completion)
    completion.messages.clear()
    if step.state.is_open and not completion.request.force_create_new_workflow_task:
        updates.reject_unprocessed(step)


def _handle(step: WorkflowStep, message: Message, completion: Completion) -> None:
    """Raises CommandRefused for what the worker got wrong; ApiError for what is no message at all (the task stays with the worker)."""
    type_name = _type_name(message)
    if message.body.ByteSize() > step.limits.blob_size_error_bytes:
        raise CommandRefused(CAUSE, f"Message type {type_name} exceeds size limit.", terminate=True)
    protocol = type_name.rpartition(".")[0]
    if protocol != PROTOCOL:
        raise CommandRefused(CAUSE, f"unsupported protocol type {protocol}")
    update_id = message.protocol_instance_id
    body = _body(message, type_name)
    if update_id in completion.rejected:
        raise _wrong_transition(update_id, body, PROVISIONALLY_COMPLETED)
    pending = updates.find(step, update_id)
    if pending is None and not updates.is_known(step.state, update_id):
        pending = _resurrect(step, update_id, body)
    if not step.state.is_open and not isinstance(body, Rejection):
        return  # the run has closed in this very task: what becomes of its updates follows from that
    if isinstance(body, Acceptance):
        pending = _waiting(step, update_id, pending, body)
        _check(body, (body.accepted_request_sequencing_event_id, "accepted_request_sequencing_event_id"))
        _check(body, (body.accepted_request_message_id, "accepted_request_message_id"))
        updates.accept(step, pending, body)
    elif isinstance(body, Rejection):
        updates.reject(step, _waiting(step, update_id, pending, body), body.failure)
        completion.rejected.add(update_id)
    elif isinstance(body, Response):
        update = step.state.updates.get(update_id)
        if update is None or not update.accepted_event_id:
            raise _invalid_transition(step, update_id, pending, body)
        _check(body, (body.HasField("meta"), "meta"), (body.meta.update_id, "meta.update_id"))
        if body.meta.update_id != update_id:
            raise CommandRefused(CAUSE, f"invalid {_go_name(body)}: meta.update_id != {update_id}")
        _check(body, (body.HasField("outcome"), "outcome"))
        updates.respond(step, update_id, body)
    else:
        raise CommandRefused(CAUSE, f"Message type {_go_name(body)} not supported")


def _type_name(message: Message) -> str:
    if not message.HasField("body"):
        raise invalid_argument("nil message body")
    type_name = message.body.TypeName()
    if not type_name:
        raise invalid_argument("no message name specified")
    if "." not in type_name:
        raise invalid_argument(f'failed to extract protocol type: no . found in "{type_name}"')
    return type_name


def _body(message: Message, type_name: str) -> ProtoMessage:
    body_type = _BODIES.get(type_name)
    if body_type is None:
        raise CommandRefused(CAUSE, "unable to unmarshal request: proto: not found")
    try:
        return body_type.FromString(message.body.value)
    except DecodeError:
        raise CommandRefused(CAUSE, "unable to unmarshal request: proto: cannot parse invalid wire-format data") from None


def _resurrect(step: WorkflowStep, update_id: str, body: ProtoMessage) -> PendingUpdate:
    """A worker may answer an update that this memory does not know, if it says what it was.

    Raises CommandRefused; ApiError when the run has had too many updates (the task stays with the worker).
    """
    updates.check_total(step)
    request: Request | None = None
    if isinstance(body, Acceptance) and body.HasField("accepted_request"):
        request = body.accepted_request
    elif isinstance(body, Rejection) and body.HasField("rejected_request"):
        request = body.rejected_request
    if request is None:
        raise CommandRefused(
            CAUSE,
            f"update {update_id} wasn't found on the server. "
            "This is most likely a transient error which will be resolved automatically by retries",
        )
    return updates.resurrect(step, request, update_id)


def _waiting(step: WorkflowStep, update_id: str, pending: PendingUpdate | None, body: ProtoMessage) -> PendingUpdate:
    """The update, if it waits for this answer."""
    if pending is None or not pending.is_open:
        raise _invalid_transition(step, update_id, pending, body)
    return pending


def _invalid_transition(step: WorkflowStep, update_id: str, pending: PendingUpdate | None, body: ProtoMessage) -> CommandRefused:
    state = "Sent" if pending is not None and pending.status == PendingStatus.SENT else "Admitted"
    if pending is None:
        state = _recorded_state(step.state, update_id, step.first_event_id)
    return _wrong_transition(update_id, body, state)


def _wrong_transition(update_id: str, body: ProtoMessage, state: str) -> CommandRefused:
    return CommandRefused(
        CAUSE, f"invalid state transition attempted for Update {update_id}: received {_go_name(body)} message while in state {state}"
    )


def _recorded_state(state: WorkflowState, update_id: str, first_event_id: int) -> str:
    """The official server's name of a state that is in history, or will be once this step is (from its first event id on)."""
    completed = state.completed_updates.get(update_id)
    if completed is not None:
        return PROVISIONALLY_COMPLETED if completed >= first_event_id else "Completed"
    return "ProvisionallyAccepted" if state.updates[update_id].accepted_event_id >= first_event_id else "Accepted"


def _check(body: ProtoMessage, *fields: tuple[object, str]) -> None:
    """Refuse a message that lacks a field."""
    for value, name in fields:
        if not value:
            raise CommandRefused(CAUSE, f"invalid {_go_name(body)}: {name} is not set")


def _go_name(body: ProtoMessage) -> str:
    """As the official server's messages name a type."""
    return f"*update.{body.DESCRIPTOR.name}"
