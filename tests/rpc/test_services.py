"""The RPCs, as the API's descriptors list them."""

from __future__ import annotations

import subprocess
import sys

from temporalio.api.operatorservice import v1 as ops
from temporalio.api.workflowservice import v1 as ws

from perdure.core.call import OPERATOR_SERVICE, WORKFLOW_SERVICE
from perdure.rpc.services import method_table


def test_every_rpc_has_the_message_classes_of_its_name() -> None:
    methods = list(method_table())
    assert {method.service for method in methods} == {WORKFLOW_SERVICE, OPERATOR_SERVICE}
    assert len(methods) > 130
    assert method_table().get("StartWorkflowExecution").request_type is ws.StartWorkflowExecutionRequest
    assert method_table().get("CreateNexusEndpoint", OPERATOR_SERVICE).response_type is ops.CreateNexusEndpointResponse
    assert all(method.request_type.DESCRIPTOR.name == f"{method.name}Request" for method in methods)


def _run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_server_does_not_load_the_sdk() -> None:
    _run("""
import sys
from perdure.core.lean_import import defer_sdk
defer_sdk()
import perdure.rpc.grpc_server, perdure.rpc.services
perdure.rpc.services.method_table()
needless = ("temporalio.bridge", "temporalio.service", "grpc_health.v1", "grpc_reflection.v1")
loaded = [name for name in sys.modules if name.startswith(needless)]
assert not loaded, loaded
""")


def test_deferred_sdk_loads_when_it_is_used() -> None:
    _run("""
from perdure.core.lean_import import defer_sdk
defer_sdk()
import temporalio.api.common.v1
import temporalio
assert temporalio.__version__[0].isdigit()
assert "runtime" not in vars(temporalio) or temporalio.runtime
from temporalio.client import Client
from temporalio import activity, workflow
import temporalio.worker
import temporalio.service
assert temporalio.service.__version__ == temporalio.__version__
assert not hasattr(temporalio, "nonsense")
defer_sdk()
""")


def test_deferring_a_loaded_sdk_changes_nothing() -> None:
    _run("""
import sys, temporalio.service
from perdure.core.lean_import import defer_sdk
before = sys.modules["temporalio"]
defer_sdk()
assert sys.modules["temporalio"] is before
""")
