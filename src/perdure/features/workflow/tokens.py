"""Task tokens: what a worker gives back with its answer. Opaque to clients."""

from __future__ import annotations

import msgspec

from perdure.core.codec import Codec
from perdure.core.errors import invalid_argument
from perdure.core.execution import RunKey


class TaskToken(msgspec.Struct, frozen=True, array_like=True):
    """What a task was handed out for. attempt: of a workflow task; stamp: of an activity attempt (0 in the other kind)."""

    namespace_id: str
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    attempt: int = 0
    started_event_id: int = 0
    stamp: int = 0
    activity_id: str = ""
    clock: int = 0


_CODEC: Codec[TaskToken] = Codec(TaskToken)


def encode_token(token: TaskToken) -> bytes:
    return _CODEC.encode(token)


def decode_token(data: bytes) -> TaskToken:
    """Raises ApiError INVALID_ARGUMENT with the official wording for no token and for garbage."""
    if not data:
        raise invalid_argument("Task token not set on request.")
    try:
        return _CODEC.decode(data)
    except (ValueError, msgspec.MsgspecError):
        raise invalid_argument("Error deserializing task token.") from None


def run_key(token: TaskToken) -> RunKey:
    from perdure.features.workflow.kind import WORKFLOW

    return RunKey(token.namespace_id, WORKFLOW, token.workflow_id, token.run_id)
