"""The API's RPCs, read from the descriptors of the services that we serve."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from perdure.core.call import MethodTable

WORKFLOW = workflow_service.DESCRIPTOR.services_by_name["WorkflowService"]
OPERATOR = operator_service.DESCRIPTOR.services_by_name["OperatorService"]


def message_types(service: ServiceDescriptor) -> dict[str, tuple[type[Message], type[Message]]]:
    """The request and response class of every RPC of a service, by the RPC's short name."""
    return {method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type)) for method in service.methods}


def method_table(*more: ServiceDescriptor) -> MethodTable:
    """A table of all RPCs of WorkflowService and OperatorService, none with a handler yet.

    more: descriptors of further services to serve (the test server's, say).
    """
    return MethodTable({service: message_types(service) for service in (WORKFLOW, OPERATOR, *more)})
