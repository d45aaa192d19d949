"""An :class:`ApiError` as gRPC sends it: a code, a message, and the typed detail in ``grpc-status-details-bin``."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any as PackedMessage
from temporalio.api.common.v1 import GrpcStatus

from perdure.core.errors import ApiError

# ``temporal.api.common.v1.GrpcStatus`` is ``google.rpc.Status`` under another name: same fields, same bytes.

STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
NO_TRAILERS: tuple[tuple[str, bytes], ...] = ()


def trailers(error: ApiError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata of an error: its detail, or nothing at all."""
    if error.detail is None:
        return NO_TRAILERS
    packed = PackedMessage()
    packed.Pack(error.detail)
    status = GrpcStatus(code=error.code, message=error.message, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)
