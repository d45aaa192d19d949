"""E9, E13: namespaces and their search attributes, created, described, updated and deleted through the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, IndexedValueType, NamespaceState, WorkflowTaskFailedCause
from temporalio.api.namespace.v1 import BadBinaries, BadBinaryInfo, NamespaceConfig, NamespaceFilter, UpdateNamespaceInfo
from temporalio.api.operatorservice import v1 as operator
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from perdure.app import Server
from perdure.core.limits import Limits
from perdure.settings import ServerSettings
from tests.support.inspected import inspected_server
from tests.support.requests import QUEUE, describe, execution, payload, poll, start, start_request
from tests.support.waiting import until

DAY = Duration(seconds=86_400)
KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
INT = IndexedValueType.INDEXED_VALUE_TYPE_INT


async def refused(call: Any) -> tuple[RPCStatusCode, str]:
    with pytest.raises(RPCError) as caught:
        await call
    return caught.value.status, caught.value.message


async def register(client: Client, name: str, **fields: Any) -> None:
    defaults: dict[str, Any] = {"namespace": name, "workflow_execution_retention_period": DAY}
    request = api.RegisterNamespaceRequest(**{**defaults, **fields})
    await client.workflow_service.register_namespace(request)


async def described(client: Client, name: str = "", **fields: Any) -> api.DescribeNamespaceResponse:
    return await client.workflow_service.describe_namespace(api.DescribeNamespaceRequest(namespace=name, **fields))


async def listed(client: Client, **fields: Any) -> list[str]:
    found: list[str] = []
    token = b""
    while True:
        page = await client.workflow_service.list_namespaces(api.ListNamespacesRequest(page_size=2, next_page_token=token, **fields))
        assert len(page.namespaces) <= 2
        found.extend(namespace.namespace_info.name for namespace in page.namespaces)
        token = page.next_page_token
        if not token:
            return found


async def test_a_namespace_lives(client: Client) -> None:
    await register(client, "orders", description="what for", owner_email="a@b.c", data={"k": "1"})
    answer = await described(client, "orders")
    assert (await described(client, id=answer.namespace_info.id)).namespace_info.name == "orders"
    assert await listed(client) == ["default", "orders", "temporal-system"]
    update = api.UpdateNamespaceRequest(
        namespace="orders", update_info=UpdateNamespaceInfo(data={"l": "2"}),
        config=NamespaceConfig(workflow_execution_retention_ttl=Duration(seconds=3600)),
    )  # fmt: skip
    await client.workflow_service.update_namespace(update)
    answer = await described(client, "orders")
    assert dict(answer.namespace_info.data) == {"k": "1", "l": "2"}
    assert answer.namespace_info.description == "what for"
    assert answer.config.workflow_execution_retention_ttl.seconds == 3600


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"name": "default"}, RPCStatusCode.ALREADY_EXISTS, 'Namespace "default" already exists'),
        (
            {"workflow_execution_retention_period": Duration(seconds=3599)},
            RPCStatusCode.INVALID_ARGUMENT,
            "A valid retention period is not set on request.",
        ),
        ({"is_global_namespace": True}, RPCStatusCode.INVALID_ARGUMENT, "Cannot register global namespace when not enabled"),
        ({"active_cluster_name": "elsewhere"}, RPCStatusCode.INVALID_ARGUMENT, "Invalid cluster name: elsewhere"),
    ],
)
async def test_bad_registrations_are_refused(client: Client, fields: dict[str, Any], code: RPCStatusCode, message: str) -> None:
    assert await refused(register(client, **{"name": "n", **fields})) == (code, message)


async def test_states_go_one_way(client: Client) -> None:
    await register(client, "n")
    unknown = api.UpdateNamespaceRequest(namespace="n", update_info=UpdateNamespaceInfo(state=99))  # type: ignore[arg-type]
    assert (await refused(client.workflow_service.update_namespace(unknown)))[1] == "Invalid namespace state update."
    await client.workflow_service.deprecate_namespace(api.DeprecateNamespaceRequest(namespace="n"))
    back = api.UpdateNamespaceRequest(namespace="n", update_info=UpdateNamespaceInfo(state=NamespaceState.NAMESPACE_STATE_REGISTERED))
    assert (await refused(client.workflow_service.update_namespace(back)))[1] == "Invalid namespace state update."


async def test_a_bad_build_of_a_worker_gets_no_tasks_and_its_answers_do_not_count(client: Client) -> None:
    async def mark(bad: dict[str, BadBinaryInfo], **more: Any) -> NamespaceConfig:
        config = NamespaceConfig(bad_binaries=BadBinaries(binaries=bad))
        answer = await client.workflow_service.update_namespace(api.UpdateNamespaceRequest(namespace="default", config=config, **more))
        assert answer.config == (await described(client, "default")).config
        return answer.config

    def poll_with(checksum: str) -> Any:
        request = api.PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="q"), binary_checksum=checksum)
        return client.workflow_service.poll_workflow_task_queue(request, timeout=timedelta(seconds=30))

    await client.start_workflow("W", id="w", task_queue="q")
    task = await poll_with("broken")
    await mark({"broken": BadBinaryInfo(reason="loops", operator="me"), "old": BadBinaryInfo(reason="slow")})
    known = (await mark({"old": BadBinaryInfo(reason="very slow")})).bad_binaries.binaries
    assert {checksum: (bad.reason, bad.operator) for checksum, bad in known.items()} == {
        "broken": ("loops", "me"),
        "old": ("very slow", ""),
    }
    assert known["old"].create_time.ToNanoseconds() > known["broken"].create_time.ToNanoseconds() > 0
    answer = api.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, binary_checksum="broken")
    bad = (RPCStatusCode.INVALID_ARGUMENT, "BadBinary: binary broken is marked as bad deployment")
    assert await refused(client.workflow_service.respond_workflow_task_completed(answer)) == bad
    failed = [event async for event in client.get_workflow_handle("w").fetch_history_events()][3]
    cause = failed.workflow_task_failed_event_attributes.cause
    assert cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY
    assert await refused(poll_with("broken")) == (RPCStatusCode.INVALID_ARGUMENT, "Binary broken already marked as bad deployment.")
    assert (await poll_with("good")).attempt == 2
    assert list((await mark({}, delete_bad_binary="broken")).bad_binaries.binaries) == ["old"]
    gone = (RPCStatusCode.INVALID_ARGUMENT, "Bad binary checksum broken doesn't exists.")
    assert await refused(mark({}, delete_bad_binary="broken")) == gone
    many = {str(number): BadBinaryInfo() for number in range(10)}
    assert await refused(mark(many)) == (RPCStatusCode.INVALID_ARGUMENT, "Total resetBinaries cannot exceed the max limit: 10")
    assert list((await described(client, "default")).config.bad_binaries.binaries) == ["old"]


async def test_a_deleted_namespace_gives_its_name_back_and_takes_its_runs_along(server: Server, client: Client) -> None:
    await register(client, "n")
    old = (await described(client, "n")).namespace_info.id
    other = await Client.connect(server.grpc_address, namespace="n")
    for number in range(3):
        await other.start_workflow("Flow", id=f"w{number}", task_queue="q")
    answer = await client.operator_service.delete_namespace(operator.DeleteNamespaceRequest(namespace="n"))
    assert answer.deleted_namespace == f"n-deleted-{old[:5]}"
    assert (await refused(described(client, "n")))[0] == RPCStatusCode.NOT_FOUND
    await register(client, "n")
    assert (await other.count_workflows()).count == 0

    async def gone() -> bool:
        return await listed(client, namespace_filter=NamespaceFilter(include_deleted=True)) == ["default", "n", "temporal-system"]

    await until(gone)
    assert await server.store.count_headers(old, "workflow") == 0


async def test_what_is_in_a_deleted_namespace_is_not_for_callers_any_more(client: Client) -> None:
    await register(client, "n")
    namespace_id = (await described(client, "n")).namespace_info.id
    other = await Client.connect(client.service_client.config.target_host, namespace="n")
    await start(other, "w", namespace="n")
    task = await poll(other, namespace="n")
    delete = operator.DeleteNamespaceRequest(namespace="n", namespace_delete_delay=Duration(seconds=60))
    name = (await client.operator_service.delete_namespace(delete)).deleted_namespace
    assert (await described(client, name)).namespace_info.state == NamespaceState.NAMESPACE_STATE_DELETED
    refusal = "Namespace has invalid state: Deleted. Must be Registered or Deprecated."
    signal = api.SignalWorkflowExecutionRequest(namespace=name, workflow_execution=execution("w"), signal_name="s")
    answer = api.RespondWorkflowTaskCompletedRequest(task_token=task.task_token)
    calls = (
        client.workflow_service.signal_workflow_execution(signal),
        client.workflow_service.respond_workflow_task_completed(answer),
        client.workflow_service.update_namespace(api.UpdateNamespaceRequest(namespace=name)),
    )
    for call in calls:
        assert await refused(call) == (RPCStatusCode.FAILED_PRECONDITION, refusal)
    nothing_starts = await refused(start(other, "w", namespace=name))
    assert nothing_starts == (RPCStatusCode.FAILED_PRECONDITION, "Namespace has invalid state: Deleted. Must be Registered.")
    # It may be deleted once more, without the delay: then there is nothing left to refuse.
    assert (
        await client.operator_service.delete_namespace(operator.DeleteNamespaceRequest(namespace_id=namespace_id))
    ).deleted_namespace == name


async def test_a_namespace_that_was_only_given_the_state_is_emptied_by_nobody(durable_database: str) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=durable_database)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        await register(client, "n")
        namespace_id = (await described(client, "n")).namespace_info.id
        await start(client, "w", namespace="n")
        update = api.UpdateNamespaceRequest(namespace="n", update_info=UpdateNamespaceInfo(state=NamespaceState.NAMESPACE_STATE_DELETED))
        await client.workflow_service.update_namespace(update)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        # By the time that another one is gone, whatever is emptied at the start has had its turn.
        await register(client, "other")
        await client.operator_service.delete_namespace(operator.DeleteNamespaceRequest(namespace="other"))

        async def gone() -> bool:
            return not any("other" in name for name in await listed(client, namespace_filter=NamespaceFilter(include_deleted=True)))

        await until(gone)
        assert (await described(client, "n")).namespace_info.state == NamespaceState.NAMESPACE_STATE_DELETED
        assert await server.store.count_headers(namespace_id, "workflow") == 1
        count = api.CountWorkflowExecutionsRequest(namespace="n")
        assert (await refused(client.workflow_service.count_workflow_executions(count)))[0] == RPCStatusCode.FAILED_PRECONDITION


async def test_the_system_namespace_stays(client: Client) -> None:
    delete = operator.DeleteNamespaceRequest(namespace="temporal-system")
    assert await refused(client.operator_service.delete_namespace(delete)) == (
        RPCStatusCode.FAILED_PRECONDITION, "unable to delete system namespace",
    )  # fmt: skip


async def test_namespaces_survive_a_restart_and_so_does_their_deletion(durable_database: str) -> None:
    settings = ServerSettings(grpc_port=0, metrics_port=None, database=durable_database)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        await register(client, "kept", description="d")
        await client.operator_service.add_search_attributes(
            operator.AddSearchAttributesRequest(namespace="kept", search_attributes={"Color": KEYWORD})
        )
        await register(client, "going")
        going = (await described(client, "going")).namespace_info.id
        await (await Client.connect(server.grpc_address, namespace="going")).start_workflow("Flow", id="w", task_queue="q")
        delete = operator.DeleteNamespaceRequest(namespace="going", namespace_delete_delay=Duration(seconds=1))
        await client.operator_service.delete_namespace(delete)
    async with Server(settings) as server:
        client = await Client.connect(server.grpc_address)
        assert (await described(client, "kept")).namespace_info.description == "d"
        attributes = await client.operator_service.list_search_attributes(operator.ListSearchAttributesRequest(namespace="kept"))
        assert dict(attributes.custom_attributes) == {"Color": KEYWORD}

        async def gone() -> bool:
            return await listed(client, namespace_filter=NamespaceFilter(include_deleted=True)) == ["default", "kept", "temporal-system"]

        await until(gone)
        assert await server.store.count_headers(going, "workflow") == 0


async def test_a_run_is_kept_for_as_long_as_its_namespace_says_when_it_closes(server: Server, client: Client) -> None:
    await register(client, "n")
    other = await Client.connect(server.grpc_address, namespace="n")
    await other.start_workflow("Flow", id="w", task_queue="q")
    update = api.UpdateNamespaceRequest(namespace="n", config=NamespaceConfig(workflow_execution_retention_ttl=Duration(seconds=3600)))
    await client.workflow_service.update_namespace(update)
    await other.get_workflow_handle("w").terminate()
    namespace_id = (await described(client, "n")).namespace_info.id
    [header] = await server.store.list_headers(namespace_id, "workflow")
    assert header.close_at is not None
    assert header.expire_at == header.close_at + 3600 * 1_000_000_000


async def test_a_new_search_attribute_can_be_used_at_once(client: Client) -> None:
    service = client.operator_service
    add = operator.AddSearchAttributesRequest(namespace="default", search_attributes={"Color": KEYWORD, "Amount": INT})
    await service.add_search_attributes(add)
    await start(client, "w", search_attributes={"indexed_fields": {"Color": payload("red"), "Amount": payload(3)}})
    found = [run async for run in client.list_workflows("Color = 'red' AND Amount = 3")]
    assert [run.id for run in found] == ["w"]
    assert (await client.count_workflows("Color = 'blue'")).count == 0
    attributes = (await describe(client, "w")).workflow_execution_info.search_attributes.indexed_fields
    assert attributes["Color"].metadata["type"] == b"Keyword"
    # Another type for a name that is there is no error, and changes nothing.
    await service.add_search_attributes(operator.AddSearchAttributesRequest(namespace="default", search_attributes={"Color": INT}))
    remove = operator.RemoveSearchAttributesRequest(namespace="default", search_attributes=["Amount", "None"])
    await service.remove_search_attributes(remove)
    listed_now = await service.list_search_attributes(operator.ListSearchAttributesRequest(namespace="default"))
    assert dict(listed_now.custom_attributes) == {"Color": KEYWORD}
    assert list((await describe(client, "w")).workflow_execution_info.search_attributes.indexed_fields) == ["Color"]


async def test_search_attributes_have_no_slots(client: Client) -> None:
    names = {f"Keyword{number}": KEYWORD for number in range(50)}
    await client.operator_service.add_search_attributes(operator.AddSearchAttributesRequest(namespace="default", search_attributes=names))
    answer = await client.operator_service.list_search_attributes(operator.ListSearchAttributesRequest(namespace="default"))
    assert dict(answer.custom_attributes) == names


async def test_the_list_goes_page_by_page(client: Client) -> None:
    for number in range(5):
        await start(client, f"w{number}")
    found: list[str] = []
    token = b""
    while True:
        page = await client.workflow_service.list_workflow_executions(
            api.ListWorkflowExecutionsRequest(namespace="default", page_size=2, next_page_token=token)
        )
        found.extend(run.execution.workflow_id for run in page.executions)
        token = page.next_page_token
        if not token:
            break
    assert found == ["w4", "w3", "w2", "w1", "w0"]
    assert (await client.count_workflows()).count == 5


async def test_namespaces_keep_apart_what_is_in_them(server: Server, client: Client) -> None:
    await register(client, "n")
    other = await Client.connect(server.grpc_address, namespace="n")
    first = await client.workflow_service.start_workflow_execution(start_request("w", request_id="r"))
    second = await other.workflow_service.start_workflow_execution(start_request("w", request_id="r", namespace="n"))
    assert first.run_id != second.run_id
    await client.get_workflow_handle("w").terminate()
    assert (await other.get_workflow_handle("w").describe()).close_time is None


@pytest.mark.parametrize("deleted", ["parents", "children"])
async def test_parents_and_children_elsewhere_learn_of_a_deleted_namespace(database: str, deleted: str) -> None:
    limits = Limits.from_dynamic_config({"system.enableCrossNamespaceCommands": True})
    async with inspected_server(database=database, limits=limits) as server:
        await _learn_of_a_deleted_namespace(server, deleted)


async def _learn_of_a_deleted_namespace(server: Server, deleted: str) -> None:
    client = await Client.connect(server.grpc_address)
    for name in ("parents", "children"):
        await register(client, name)
    parents = await Client.connect(server.grpc_address, namespace="parents")
    children = await Client.connect(server.grpc_address, namespace="children")
    parent = await parents.start_workflow("Parent", id="parent", task_queue=QUEUE)
    task = await poll(parents, namespace="parents")
    child = StartChildWorkflowExecutionCommandAttributes(
        namespace="children", workflow_id="child", workflow_type=WorkflowType(name="Child"), task_queue=TaskQueue(name=QUEUE)
    )
    command = Command(
        command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, start_child_workflow_execution_command_attributes=child
    )
    await parents.workflow_service.respond_workflow_task_completed(
        api.RespondWorkflowTaskCompletedRequest(namespace="parents", task_token=task.task_token, commands=[command])
    )

    async def happened(handle: WorkflowHandle[Any, Any], event_type: EventType.ValueType) -> bool:
        return any([event.event_type == event_type async for event in handle.fetch_history_events()])

    await until(lambda: happened(parent, EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED))
    await client.operator_service.delete_namespace(operator.DeleteNamespaceRequest(namespace=deleted))
    if deleted == "parents":
        await until(lambda: happened(children.get_workflow_handle("child"), EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED))
    else:
        await until(lambda: happened(parent, EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED))
