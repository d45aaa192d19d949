"""What is checked of every call before its handler: namespace, then client version, then the deadline of a poll."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.errordetails.v1 import ClientVersionNotSupportedFailure, ServerVersionNotSupportedFailure
from temporalio.api.operatorservice import v1 as ops
from temporalio.api.workflowservice import v1 as ws

from perdure.core.call import OPERATOR_SERVICE
from perdure.rpc.client_versions import in_range, parse_version
from tests.rpc.conftest import Door, raw_call, refusal

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
DELETED = "Namespace has invalid state: Deleted. Must be Registered or Deprecated."
Respond = ws.RespondActivityTaskCompletedRequest
LONG = "x" * 1001


@pytest.mark.parametrize(
    ("request_message", "expected"),
    [
        (ws.SignalWorkflowExecutionRequest(), (INVALID, "Namespace is empty.")),
        (ws.SignalWorkflowExecutionRequest(namespace=LONG), (INVALID, "Namespace length exceeds limit.")),
        (ws.SignalWorkflowExecutionRequest(namespace="ö" * 501), (INVALID, "Namespace length exceeds limit.")),
        (ws.SignalWorkflowExecutionRequest(namespace="x" * 1000), (MISSING, f"Namespace {'x' * 1000} is not found.")),
        (ws.SignalWorkflowExecutionRequest(namespace="Default"), (MISSING, "Namespace Default is not found.")),
        (ws.SignalWorkflowExecutionRequest(namespace=" "), (MISSING, "Namespace   is not found.")),
        (ws.DescribeNamespaceRequest(), (INVALID, "Namespace not set on request.")),
        (ws.DescribeNamespaceRequest(namespace=LONG), (INVALID, "Namespace length exceeds limit.")),
        (ops.DeleteNamespaceRequest(), (INVALID, "Namespace not set on request.")),
        (ops.AddSearchAttributesRequest(namespace="nobody"), (MISSING, "Namespace nobody is not found.")),
        (ws.SignalWorkflowExecutionRequest(namespace="gone"), (PRECONDITION, DELETED)),
        (Respond(task_token=b"token:id-of-gone"), (PRECONDITION, DELETED)),
        (Respond(), (INVALID, "Task token not set on request.")),
        (Respond(namespace="nobody"), (MISSING, "Namespace nobody is not found.")),
        (Respond(namespace=LONG), (INVALID, "Namespace length exceeds limit.")),
        (Respond(namespace="default"), (INVALID, "Task token not set on request.")),
        (Respond(task_token=b"garbage"), (INVALID, "Error deserializing task token.")),
        (Respond(task_token=b"token:"), (INVALID, "Namespace not set on request.")),
        (
            Respond(namespace="other", task_token=b"token:id-of-default"),
            (INVALID, "Operation requested with a token from a different namespace."),
        ),
    ],
)
async def test_namespace_is_refused(
    channel: grpc.aio.Channel, door: Door, request_message: Message, expected: tuple[grpc.StatusCode, str]
) -> None:
    method, service = _method(request_message)
    assert await refusal(channel, method, request_message, service=service) == expected
    assert door.seen == []


@pytest.mark.parametrize(
    ("request_message", "expected"),
    [
        (ws.SignalWorkflowExecutionRequest(namespace="default"), "id-of-default"),
        (ws.SignalWorkflowExecutionRequest(namespace="größe"), "id-of-größe"),
        (ws.DescribeNamespaceRequest(namespace="not made yet"), ""),
        (ws.DescribeNamespaceRequest(id="some id"), ""),
        (ops.DeleteNamespaceRequest(namespace_id="some id"), ""),
        (ops.AddSearchAttributesRequest(), ""),
        (ops.AddSearchAttributesRequest(namespace="other"), "id-of-other"),
        (Respond(task_token=b"token:id-of-other"), "id-of-other"),
        (Respond(namespace="other", task_token=b"token:id-of-other"), "id-of-other"),
    ],
)
async def test_namespace_reaches_the_handler(channel: grpc.aio.Channel, door: Door, request_message: Message, expected: str) -> None:
    method, service = _method(request_message)
    await raw_call(channel, method, request_message, service=service)
    ((seen, call),) = door.seen
    assert seen == request_message
    assert call.namespace_id == expected


def _method(request: Message) -> tuple[str, str]:
    service = {"service": OPERATOR_SERVICE} if isinstance(request, (ops.DeleteNamespaceRequest, ops.AddSearchAttributesRequest)) else {}
    return type(request).__name__.removesuffix("Request"), service.get("service", "temporal.api.workflowservice.v1.WorkflowService")


SIGNAL = ws.SignalWorkflowExecutionRequest(namespace="default")
NO_NUMBERS = "Unable to parse client version: No Major.Minor.Patch elements found"


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("temporal-go", "1.40.0", None),
        ("temporal-go", "1.2.3-rc.1+build.5", None),
        ("temporal-go", "2.0.0-rc.1", None),
        ("temporal-go", "2.0.0", "Client version 2.0.0 is not supported. Server supports temporal-go versions: <2.0.0"),
        ("temporal-java", "2.0.0", "Client version 2.0.0 is not supported. Server supports temporal-java versions: <2.0.0"),
        ("temporal-php", "2.0.0", "Client version 2.0.0 is not supported. Server supports temporal-php versions: <2.0.0"),
        ("temporal-typescript", "3.0.0", "Client version 3.0.0 is not supported. Server supports temporal-typescript versions: <2.0.0"),
        ("temporal-cli", "2.1.0", "Client version 2.1.0 is not supported. Server supports temporal-cli versions: <2.0.0"),
        ("temporal-ui", "2.99.0", None),
        ("temporal-ui", "3.0.0", "Client version 3.0.0 is not supported. Server supports temporal-ui versions: <3.0.0"),
        ("temporal-python", "99.0.0", None),
        ("temporal-dotnet", "99.0.0", None),
        ("somebody", "nonsense", None),
        ("temporal-go", "", None),
        ("temporal-go", "nonsense", NO_NUMBERS),
        ("temporal-go", "1.0", NO_NUMBERS),
        ("temporal-go", "01.0.0", 'Unable to parse client version: Major number must not contain leading zeroes "01"'),
        ("temporal-go", "1.x.0", 'Unable to parse client version: Invalid character(s) found in minor number "x"'),
    ],
)
async def test_client_versions(channel: grpc.aio.Channel, name: str, version: str, expected: str | None) -> None:
    headers = [("client-name", name), ("client-version", version)]
    if expected is None:
        await raw_call(channel, "SignalWorkflowExecution", SIGNAL, headers=headers)
        return
    for method, request in (("SignalWorkflowExecution", SIGNAL), ("GetSystemInfo", b"")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await raw_call(channel, method, request, headers=headers)
        assert raised.value.details() == expected
        if raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION:
            detail = ClientVersionNotSupportedFailure()
            assert _status(raised.value).details[0].Unpack(detail)
            assert (detail.client_name, detail.client_version, detail.supported_versions) == (name, version, expected.rsplit(" ", 1)[1])
        else:
            assert raised.value.code() == INVALID


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (">=1.0.0 <2.0.0", None),
        ("", None),
        ("1.32.0", None),
        ("!=1.32.0 || > 1.31.0", None),
        (">=99.0.0", "Server version 1.32.0 is not supported. Client supports server versions: >=99.0.0"),
        ("<1.0.0", "Server version 1.32.0 is not supported. Client supports server versions: <1.0.0"),
        ("nonsense", 'Unable to parse supported server versions: Could not get version from string: "nonsense"'),
    ],
)
async def test_server_versions_that_the_client_supports(channel: grpc.aio.Channel, versions: str, expected: str | None) -> None:
    headers = [("client-name", "anybody"), ("client-version", "1.0.0"), ("supported-server-versions", versions)]
    if expected is None:
        await raw_call(channel, "GetSystemInfo", headers=headers)
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw_call(channel, "GetSystemInfo", headers=headers)
    assert raised.value.details() == expected
    if raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION:
        detail = ServerVersionNotSupportedFailure()
        assert _status(raised.value).details[0].Unpack(detail)
        assert (detail.server_version, detail.client_supported_server_versions) == ("1.32.0", versions)


async def test_namespace_is_checked_before_the_client(channel: grpc.aio.Channel) -> None:
    headers = [("client-name", "temporal-go"), ("client-version", "9.0.0")]
    request = ws.SignalWorkflowExecutionRequest(namespace="nobody")
    assert (await refusal(channel, "SignalWorkflowExecution", request, headers=headers))[0] == MISSING


async def test_deadline_of_a_poll(channel: grpc.aio.Channel, door: Door) -> None:
    poll = ws.PollWorkflowTaskQueueRequest(namespace="default")
    answers = [await refusal(channel, "PollWorkflowTaskQueue", poll, timeout=timeout) for timeout in (None, 1.5)]
    assert answers == [
        (INVALID, "Context timeout is not set."),
        (grpc.StatusCode.FAILED_PRECONDITION, "Context timeout is too short."),
    ]
    unknown = ws.PollWorkflowTaskQueueRequest(namespace="nobody")
    assert (await refusal(channel, "PollWorkflowTaskQueue", unknown, timeout=None))[0] == MISSING
    assert door.polls == []


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers: dict[str, Any] = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


numbers = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))


@given(numbers, numbers)
def test_versions_compare_by_number(left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    text = ".".join(map(str, right))
    version = parse_version(".".join(map(str, left)))
    assert in_range(version, f"<{text}") == (left < right)
    assert in_range(version, f">= {text}") == (left >= right)
    assert in_range(version, text) == (left == right)


@given(st.text(max_size=20))
def test_any_text_is_a_version_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_version(text)
    with contextlib.suppress(ValueError):
        in_range(parse_version("1.0.0"), text)


def test_prereleases_in_their_order() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1-0"]
    assert sorted(sorted(ordered), key=parse_version) == ordered
