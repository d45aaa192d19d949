"""Adding, listing and removing the search attributes of a namespace."""

from __future__ import annotations

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    AddSearchAttributesResponse,
    ListSearchAttributesRequest,
    ListSearchAttributesResponse,
    RemoveSearchAttributesRequest,
    RemoveSearchAttributesResponse,
)
from temporalio.api.workflowservice.v1 import GetSearchAttributesRequest, GetSearchAttributesResponse

from perdure.core.call import OPERATOR_SERVICE, Call, MethodTable
from perdure.core.errors import invalid_argument
from perdure.features.namespace.registry import Namespace, NamespaceRegistry
from perdure.features.search_attributes.types import BUILT_IN, is_reserved, type_name


class SearchAttributesRpc:
    """Manages which search attributes a namespace has; the next call of anybody sees the change."""

    def __init__(self, namespaces: NamespaceRegistry) -> None:
        self._namespaces = namespaces

    def register(self, methods: MethodTable) -> None:
        methods.handle("AddSearchAttributes", self.add, OPERATOR_SERVICE)
        methods.handle("RemoveSearchAttributes", self.remove, OPERATOR_SERVICE)
        methods.handle("ListSearchAttributes", self.list, OPERATOR_SERVICE)
        methods.handle("GetSearchAttributes", self.get)

    async def add(self, request: AddSearchAttributesRequest, call: Call) -> AddSearchAttributesResponse:
        """One that is there already is left as it is, whatever its type."""
        if not request.search_attributes:
            raise invalid_argument("SearchAttributes are not set on request.")
        for name, value_type in sorted(request.search_attributes.items()):
            if is_reserved(name):
                raise invalid_argument(f"Search attribute {name} is reserved by system.")
            if value_type not in IndexedValueType.values():
                raise invalid_argument(f"Unknown search attribute type: {value_type}.")
        _check_named(call)
        for value_type in request.search_attributes.values():
            if value_type == IndexedValueType.INDEXED_VALUE_TYPE_UNSPECIFIED:
                raise invalid_argument(
                    f"Unable to create search attributes: cannot have more than 0 search attribute of type {type_name(value_type)}."
                )

        def change(namespace: Namespace) -> None:
            for name, value_type in request.search_attributes.items():
                namespace.search_attributes.setdefault(name, int(value_type))

        await self._namespaces.change(call.namespace_id, change)
        return AddSearchAttributesResponse()

    async def remove(self, request: RemoveSearchAttributesRequest, call: Call) -> RemoveSearchAttributesResponse:
        """One that is not there is no error. Values that executions have stay where they are, but are not shown."""
        if not request.search_attributes:
            raise invalid_argument("SearchAttributes are not set on request.")
        _check_named(call)
        for name in request.search_attributes:
            if name in BUILT_IN:
                raise invalid_argument(f"Unable to remove non-custom search attributes: {name}.")

        def change(namespace: Namespace) -> None:
            for name in request.search_attributes:
                namespace.search_attributes.pop(name, None)

        await self._namespaces.change(call.namespace_id, change)
        return RemoveSearchAttributesResponse()

    async def list(self, request: ListSearchAttributesRequest, call: Call) -> ListSearchAttributesResponse:
        _check_named(call)
        custom = self._namespaces.by_id(call.namespace_id).search_attributes
        return ListSearchAttributesResponse(custom_attributes=custom, system_attributes=BUILT_IN)  # pyright: ignore[reportArgumentType]

    async def get(self, request: GetSearchAttributesRequest, call: Call) -> GetSearchAttributesResponse:
        return GetSearchAttributesResponse(keys=BUILT_IN)  # pyright: ignore[reportArgumentType]


def _check_named(call: Call) -> None:
    """The namespace may be left out of these requests as far as the checks are concerned; the operation still needs one."""
    if not call.namespace_id:
        raise invalid_argument("Namespace is not set on request.")
