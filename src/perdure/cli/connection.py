"""How commands reach a server: the flags for it, and the connection. Any server of the API will do."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from perdure.cli.parser import CommandError, Parser, add_switch

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import WorkflowServiceStub

CONNECT_SECONDS = 10
CALL_SECONDS = 60


@dataclass(slots=True)
class Connection:
    """A connected server. metadata: goes with every call."""

    stub: WorkflowServiceStub
    namespace: str
    identity: str
    metadata: list[tuple[str, str]]

    def call(self, method: str, request: Any) -> Any:
        """Call a method of the workflow service. Raises CommandError with the server's own words when it refuses."""
        import grpc

        try:
            return getattr(self.stub, method)(request, metadata=self.metadata, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise CommandError(cast(grpc.Call, error).details() or str(error)) from None


def add_connection_flags(parser: Parser) -> None:
    """The flags of every command that calls a server; their environment variables are those of the official command line."""
    environment = os.environ
    group = parser.add_argument_group("which server")
    group.add_argument(
        "--address", default=environment.get("TEMPORAL_ADDRESS", "127.0.0.1:7233"), metavar="HOST:PORT", help="(default %(default)s)"
    )
    group.add_argument(
        "-n", "--namespace", default=environment.get("TEMPORAL_NAMESPACE", "default"), metavar="NAME", help="(default %(default)s)"
    )
    group.add_argument("--api-key", default=environment.get("TEMPORAL_API_KEY", ""), metavar="KEY", help="implies --tls")
    add_switch(group, "--tls", help="encrypt the connection")


@contextmanager
def connect(arguments: argparse.Namespace) -> Generator[Connection]:
    """Connect to the server that the flags name. Raises CommandError when it cannot be reached."""
    import grpc
    from temporalio.api.workflowservice.v1 import WorkflowServiceStub

    address, api_key = arguments.address, arguments.api_key
    is_encrypted = arguments.tls or api_key
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials()) if is_encrypted else grpc.insecure_channel(address)
    with channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise CommandError(f"cannot reach a server at {address}; is it running, and is --address right?") from None
        metadata = [("temporal-namespace", arguments.namespace)]
        if api_key:
            metadata.append(("authorization", f"Bearer {api_key}"))
        identity = f"{getpass.getuser()}@{socket.gethostname()}"
        yield Connection(WorkflowServiceStub(channel), arguments.namespace, identity, metadata)
