"""The services that gRPC tools and probes ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import grpc
import grpc.aio
import pytest
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

from perdure.core.call import OPERATOR_SERVICE, WORKFLOW_SERVICE
from tests.rpc.conftest import Door

# Their type stubs know neither the asynchronous channels nor the newer RPCs.
health: Any = import_module("grpc_health.v1.health_pb2")
health_pb2_grpc: Any = import_module("grpc_health.v1.health_pb2_grpc")
reflection: Any = import_module("grpc_reflection.v1alpha.reflection_pb2")
reflection_pb2_grpc: Any = import_module("grpc_reflection.v1alpha.reflection_pb2_grpc")
grpc_aio: Any = grpc.aio

SERVING, NOT_SERVING = health.HealthCheckResponse.SERVING, health.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("service", ["", WORKFLOW_SERVICE, OPERATOR_SERVICE])
async def test_health_as_the_official_client_asks_it(sdk: ServiceClient, service: str) -> None:
    assert await sdk.check_health(service=service)


async def test_health_of_an_unknown_service(sdk: ServiceClient) -> None:
    with pytest.raises(RPCError, match=r"^unknown service$") as raised:
        await sdk.check_health(service="nonsense")
    assert raised.value.status == RPCStatusCode.NOT_FOUND


async def test_health_is_watched_until_the_server_stops(channel: grpc.aio.Channel, door: Door) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health.HealthCheckRequest(service=WORKFLOW_SERVICE))
    assert (await watch.read()).status == SERVING
    unknown = stub.Watch(health.HealthCheckRequest(service="nonsense"))
    assert (await unknown.read()).status == health.HealthCheckResponse.SERVICE_UNKNOWN
    stopping = asyncio.create_task(door.server.stop(10))
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc_aio.EOF
    await asyncio.wait_for(stopping, 10)


async def test_health_of_all_services(channel: grpc.aio.Channel, door: Door) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    door.server.health.set_serving(False)
    listed = await stub.List(health.HealthListRequest())
    assert {name: answer.status for name, answer in listed.statuses.items()} == dict.fromkeys(
        ("", WORKFLOW_SERVICE, OPERATOR_SERVICE), NOT_SERVING
    )
    assert (await stub.Check(health.HealthCheckRequest())).status == NOT_SERVING


async def test_reflection_lists_and_describes(channel: grpc.aio.Channel) -> None:
    async def questions() -> AsyncIterator[Any]:
        yield reflection.ServerReflectionRequest(list_services="")
        yield reflection.ServerReflectionRequest(file_containing_symbol=WORKFLOW_SERVICE)
        yield reflection.ServerReflectionRequest(file_containing_symbol="no.such.Thing")

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    listed, described, unknown = [answer async for answer in stub.ServerReflectionInfo(questions())]
    assert {service.name for service in listed.list_services_response.service} == {
        WORKFLOW_SERVICE,
        OPERATOR_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert any(b"StartWorkflowExecution" in file for file in described.file_descriptor_response.file_descriptor_proto)
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
