"""RPCs that have no handler: listed in unbuilt.txt, and answered UNIMPLEMENTED by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from perdure.app import Server
from perdure.core.call import WORKFLOW_SERVICE, Method
from perdure.features.workflow.tokens import TaskToken, encode_token
from perdure.settings import ServerSettings
from tests.rpc.conftest import refusal

LIST = Path(__file__).with_name("unbuilt.txt")


@pytest.fixture
async def whole_server() -> AsyncIterator[Server]:
    async with Server(ServerSettings(grpc_port=0, metrics_port=None, database="")) as server:
        yield server


def _line(method: Method) -> str:
    return method.name if method.service == WORKFLOW_SERVICE else f"{method.service.rpartition('.')[2]}/{method.name}"


async def test_list_says_which_rpcs_have_no_handler(whole_server: Server) -> None:
    listed = LIST.read_text(encoding="utf-8").split()
    unbuilt = {_line(method) for method in whole_server.core.methods if method.handler is None}
    assert listed == sorted(set(listed)), "unbuilt.txt is sorted, and names each RPC once"
    assert set(listed) <= unbuilt, f"these have a handler now: take them off unbuilt.txt: {sorted(set(listed) - unbuilt)}"
    assert unbuilt <= set(listed), (
        f"these have no handler: {sorted(unbuilt - set(listed))}. The list only shrinks: register the handler again, or, if the API has "
        "grown, decide what the server shall do about the new RPC."
    )


async def test_whole_server_names_what_it_has_not_got(whole_server: Server) -> None:
    """To whom may ask: what is checked of every call is checked of these too."""
    token = encode_token(TaskToken(whole_server.core.namespaces.id_of("default") or "", "w", "", 2))
    unbuilt = [method for method in whole_server.core.methods if method.handler is None]
    async with grpc.aio.insecure_channel(whole_server.grpc_address) as channel:
        for method in unbuilt:
            fields = method.request_type.DESCRIPTOR.fields_by_name
            named = {field: value for field, value in (("namespace", "default"), ("task_token", token)) if field in fields}
            answer = await refusal(channel, method.name, method.request_type(**named), service=method.service)
            assert answer == (grpc.StatusCode.UNIMPLEMENTED, f"{method.name} is not implemented by this server.")
