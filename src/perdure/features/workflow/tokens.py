"""Task tokens: what a worker gives back with its answer. Opaque to clients.

They are protobuf on the wire, as the official server's are: what is no token is told from one in the same way.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from perdure.core.errors import invalid_argument
from perdure.core.execution import RunKey
from perdure.features.workflow.kind import WORKFLOW


class TaskToken(msgspec.Struct, frozen=True):
    """What a task was handed out for. Fields may be added at the end.

    attempt: of a workflow task; stamp: of an activity attempt (0 in the other kind). clock: when the task started. query_id: of a query
    task, "" for others.
    """

    namespace_id: str = ""
    workflow_id: str = ""
    run_id: str = ""
    scheduled_event_id: int = 0
    attempt: int = 0
    started_event_id: int = 0
    stamp: int = 0
    activity_id: str = ""
    clock: int = 0
    query_id: str = ""


def _message_class() -> type[Message]:
    """The fields of the token in their order, as a protobuf message."""
    file = FileDescriptorProto(name="perdure/task_token.proto", package="perdure", syntax="proto3")
    message = file.message_type.add(name="TaskToken")
    for number, field in enumerate(msgspec.structs.fields(TaskToken), 1):
        kind = FieldDescriptorProto.TYPE_STRING if field.type is str else FieldDescriptorProto.TYPE_INT64
        message.field.add(name=field.name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("perdure.TaskToken"))


_Message: Any = _message_class()
_values = attrgetter(*TaskToken.__struct_fields__)


def encode_token(token: TaskToken) -> bytes:
    return _Message(**msgspec.structs.asdict(token)).SerializeToString()


def decode_token(data: bytes) -> TaskToken:
    """Raises ApiError INVALID_ARGUMENT with the official wording for no token and for garbage."""
    if not data:
        raise invalid_argument("Task token not set on request.")
    try:
        message = _Message.FromString(data)
    except DecodeError:
        raise invalid_argument("Error deserializing task token.") from None
    if "\0" in message.workflow_id:
        raise invalid_argument("Error deserializing task token.")
    return TaskToken(*_values(message))


def run_key(token: TaskToken) -> RunKey:
    return RunKey(token.namespace_id, WORKFLOW, token.workflow_id, token.run_id)
