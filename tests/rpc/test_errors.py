"""How refusals reach a caller: code, message, details, and nothing that is not so."""

from __future__ import annotations

import logging
import re

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails import v1 as details
from temporalio.api.workflowservice import v1 as ws
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

from perdure.core import errors
from perdure.core.call import WORKFLOW_SERVICE
from perdure.core.errors import ApiError, Code
from perdure.rpc.grpc_status import to_wire
from tests.rpc.conftest import Door, raw_call, refusal

DESCRIBE = ws.DescribeWorkflowExecutionRequest(namespace="default")

REFUSALS: list[tuple[ApiError, Message | None]] = [
    (errors.invalid_argument("Execution is not set on request."), None),
    (errors.not_found("workflow not found for ID: w"), details.NotFoundFailure()),
    (errors.namespace_not_found("größe"), details.NamespaceNotFoundFailure(namespace="größe")),
    (errors.failed_precondition("no"), None),
    (errors.workflow_not_ready("not yet"), details.WorkflowNotReadyFailure()),
    (errors.already_started("twice", "r", "run"), details.WorkflowExecutionAlreadyStartedFailure(start_request_id="r", run_id="run")),
    (errors.permission_denied("Request unauthorized.", "because"), details.PermissionDeniedFailure(reason="because")),
    (errors.unimplemented("never"), None),
    (errors.unavailable("try again"), None),
    (ApiError(Code.ALREADY_EXISTS, "Endpoint name already registered"), None),
    (
        errors.busy_workflow("Workflow is busy."),
        details.ResourceExhaustedFailure(
            cause=ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
            scope=ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
        ),
    ),
]


@pytest.mark.parametrize(("error", "detail"), REFUSALS, ids=lambda value: value.code.name if isinstance(value, ApiError) else "")
async def test_refusal_arrives_as_it_was_raised(sdk: ServiceClient, door: Door, error: ApiError, detail: Message | None) -> None:
    door.error = error
    with pytest.raises(RPCError) as raised:
        await sdk.workflow_service.describe_workflow_execution(DESCRIBE)
    assert raised.value.status == RPCStatusCode(error.code.value)
    assert raised.value.message == error.message
    if detail is None:
        assert not raised.value.raw_grpc_status
        return
    status = status_pb2.Status.FromString(raised.value.raw_grpc_status)
    assert (status.code, status.message) == (error.code, error.message)
    (packed,) = status.details
    assert packed.type_url == f"type.googleapis.com/{detail.DESCRIPTOR.full_name}"
    unpacked = type(detail)()
    assert packed.Unpack(unpacked)
    assert unpacked == detail


async def test_error_without_detail_sends_no_details_at_all(channel: grpc.aio.Channel, door: Door) -> None:
    door.error = errors.invalid_argument("no")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw_call(channel, "DescribeWorkflowExecution", DESCRIBE)
    assert "grpc-status-details-bin" not in dict(raised.value.trailing_metadata())


def test_overlong_message_is_cut_between_characters() -> None:
    _, message, details = to_wire(errors.not_found("ö" * 3000))
    assert len(message.encode()) <= 4000
    assert re.fullmatch(r"ö+\.\.\. <truncated>", message)
    assert status_pb2.Status.FromString(details).message == message
    assert to_wire(errors.not_found("ö" * 2000))[1] == "ö" * 2000


async def test_overlong_message_reaches_the_client(sdk: ServiceClient, door: Door) -> None:
    door.error = errors.not_found("x" * 100_000)
    with pytest.raises(RPCError, match=r"x\.\.\. <truncated>") as raised:
        await sdk.workflow_service.describe_workflow_execution(DESCRIBE)
    assert raised.value.status == RPCStatusCode.NOT_FOUND


async def test_bug_is_called_one(sdk: ServiceClient, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a reference, and no secrets; the log has the traceback under the same reference."""
    door.error = ZeroDivisionError("secret")
    with pytest.raises(RPCError) as raised:
        await sdk.workflow_service.describe_workflow_execution(DESCRIBE)
    assert raised.value.status == RPCStatusCode.UNKNOWN
    assert "secret" not in raised.value.message
    found = re.search(r"DescribeWorkflowExecution met a bug in the server \(ZeroDivisionError\).*reference (\w{12})", raised.value.message)
    assert found
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert vars(record)["reference"] == found[1]
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


async def test_rpcs_without_handler_say_so(channel: grpc.aio.Channel, door: Door) -> None:
    """By name, to whom may ask: what is checked of every call is checked of these too."""
    missing = [method for method in door.methods if method.handler is None]
    assert len(missing) > 100
    for method in missing:
        fields = method.request_type.DESCRIPTOR.fields_by_name
        named = {field: value for field, value in (("namespace", "default"), ("task_token", b"token:id-of-default")) if field in fields}
        answer = await refusal(channel, method.name, method.request_type(**named), service=method.service)
        assert answer == (grpc.StatusCode.UNIMPLEMENTED, f"{method.name} is not implemented by this server.")
    unknown = ws.ListSchedulesRequest(namespace="none")
    assert await refusal(channel, "ListSchedules", unknown) == (grpc.StatusCode.NOT_FOUND, "Namespace none is not found.")


@pytest.mark.parametrize(
    ("service", "method", "expected"),
    [
        (WORKFLOW_SERVICE, "NoSuchMethod", f"unknown method NoSuchMethod for service {WORKFLOW_SERVICE}"),
        (WORKFLOW_SERVICE, "getSystemInfo", f"unknown method getSystemInfo for service {WORKFLOW_SERVICE}"),
        ("no.such.Service", "Method", "unknown service no.such.Service"),
        ("grpc.health.v1.Health", "Nonsense", "unknown method Nonsense for service grpc.health.v1.Health"),
    ],
)
async def test_unknown_paths(channel: grpc.aio.Channel, service: str, method: str, expected: str) -> None:
    assert await refusal(channel, method, service=service) == (grpc.StatusCode.UNIMPLEMENTED, expected)


async def test_path_without_a_method(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match='malformed method name: "/x"'):
        await channel.unary_unary("/x")(b"")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no protobuf", "no UTF-8"])
async def test_request_that_does_not_parse(channel: grpc.aio.Channel, data: bytes) -> None:
    """The one INTERNAL there is: gRPC's own answer, see docs/decisions."""
    code, message = await refusal(channel, "DescribeWorkflowExecution", data)
    assert code == grpc.StatusCode.INTERNAL
    assert message == "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"


async def test_unknown_fields_are_ignored(channel: grpc.aio.Channel) -> None:
    assert await raw_call(channel, "GetSystemInfo", b"\xfa\x3f\x01x")
