"""An :class:`ApiError` as gRPC sends it: a code, a message, and the typed detail in ``grpc-status-details-bin``."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as PackedMessage
from temporalio.api.common.v1 import GrpcStatus

from perdure.core.errors import ApiError, Code

# ``temporal.api.common.v1.GrpcStatus`` is ``google.rpc.Status`` under another name: same fields, same bytes.

MESSAGE_LENGTH_LIMIT = 4000
"""Bytes. Clients refuse longer headers, and then show neither message nor code."""

_TRUNCATED = "... <truncated>"


def to_wire(error: ApiError) -> tuple[Code, str, bytes]:
    """The status code, the message, and the bytes of the status with the error's detail, or b"" when it has none."""
    message = error.message
    if len(message) * 4 > MESSAGE_LENGTH_LIMIT and len(data := message.encode(errors="replace")) > MESSAGE_LENGTH_LIMIT:
        message = data[: MESSAGE_LENGTH_LIMIT - len(_TRUNCATED)].decode(errors="ignore") + _TRUNCATED
    if error.detail is None:
        return error.code, message, b""
    packed = PackedMessage()
    packed.Pack(error.detail)
    return error.code, message, GrpcStatus(code=error.code, message=message, details=[packed]).SerializeToString()
