"""An :class:`ApiError` as gRPC sends it: a code, a message, and the typed detail in ``grpc-status-details-bin``."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any as PackedMessage
from temporalio.api.common.v1 import GrpcStatus

from perdure.core.errors import ApiError

# ``temporal.api.common.v1.GrpcStatus`` is ``google.rpc.Status`` under another name: same fields, same bytes.

STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

MESSAGE_LENGTH_LIMIT = 4000
"""Bytes. Clients refuse longer headers, and then show neither message nor code."""

_TRUNCATED = "... <truncated>"

WireStatus = tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]


def to_wire(error: ApiError) -> WireStatus:
    """The status code, the message, and the trailing metadata: the error's detail, or nothing at all."""
    message = error.message
    if len(message) * 4 > MESSAGE_LENGTH_LIMIT and len(data := message.encode(errors="replace")) > MESSAGE_LENGTH_LIMIT:
        message = data[: MESSAGE_LENGTH_LIMIT - len(_TRUNCATED)].decode(errors="ignore") + _TRUNCATED
    code = STATUS_CODES[error.code]
    if error.detail is None:
        return code, message, ()
    packed = PackedMessage()
    packed.Pack(error.detail)
    status = GrpcStatus(code=error.code, message=message, details=[packed])
    return code, message, (("grpc-status-details-bin", status.SerializeToString()),)
