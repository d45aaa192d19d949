"""What is checked of every call before its handler sees it, in the official server's order: namespace, client version, poll deadline."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, Protocol

from temporalio.api.enums.v1 import NamespaceState

from perdure.core.call import Call, Method
from perdure.core.clock import SECOND, Clock
from perdure.core.errors import ApiError, Code, failed_precondition, invalid_argument, namespace_invalid_state, namespace_not_found
from perdure.core.limits import Limits
from perdure.rpc.client_versions import check_client_version

SHORTEST_LONG_POLL = 2 * SECOND

Check = Callable[[Any, Call], None]
"""Raises :class:`ApiError`, or lets the call pass; may fill in :class:`Call`."""


class NamespaceLookup(Protocol):
    """Where the checks find a namespace."""

    def id_of(self, name: str) -> str | None:
        """The id of the namespace of that name, None when there is none. Looks only into memory."""
        ...

    def name_of(self, namespace_id: str) -> str:
        """The name of the namespace of that id, or the id itself when there is none."""
        ...

    @property
    def deleted(self) -> Set[str]:
        """Ids of namespaces whose state says so: what is in them is not for callers any more."""
        ...


TokenNamespace = Callable[[bytes], str]
"""task token → id of the namespace it was made for. Raises ValueError for bytes that are no task token."""

# These name a namespace that need not exist, or may be named by its id: their handlers look it up.
_LOOKED_UP_BY_HANDLER = frozenset({"RegisterNamespace", "DescribeNamespace", "DeleteNamespace"})
_WITHOUT_NAMESPACE_NOT_SET = frozenset({"UpdateNamespace", "DeprecateNamespace"}) | _LOOKED_UP_BY_HANDLER
_NAMESPACE_OPTIONAL = frozenset({"AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes"})
# These need more than a namespace that is not deleted: their handlers say so.
_STARTS = frozenset({"StartWorkflowExecution", "SignalWithStartWorkflowExecution"})
_NAMESPACE_ID_FIELDS = {"DescribeNamespace": "id", "DeleteNamespace": "namespace_id"}
State = NamespaceState
_USABLE = (State.NAMESPACE_STATE_REGISTERED, State.NAMESPACE_STATE_DEPRECATED)
_POLLS = frozenset({"PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue"})


class Checks:
    """Builds the checks of each RPC from the fields that its request has.

    namespaces: finds namespaces by name. token_namespace: reads the namespace id out of a task token.
    """

    def __init__(self, namespaces: NamespaceLookup, token_namespace: TokenNamespace, clock: Clock, limits: Limits) -> None:
        self._namespaces = namespaces
        self._token_namespace = token_namespace
        self._clock = clock
        self._length_limit = limits.max_id_length

    def of(self, method: Method) -> tuple[Check, ...]:
        """The checks of one RPC, in the order to make them."""
        fields = method.request_type.DESCRIPTOR.fields_by_name
        checks: list[Check] = []
        if "namespace" in fields and "task_token" in fields:
            checks.append(self._namespace_or_token)
        elif "namespace" in fields:
            checks.append(self._namespace_check(method.name))
        checks.append(check_client_version)
        if method.name in _POLLS:
            checks.append(self._poll_deadline)
        return tuple(checks)

    def _namespace_check(self, method: str) -> Check:
        id_field = _NAMESPACE_ID_FIELDS.get(method)
        empty = "Namespace not set on request." if method in _WITHOUT_NAMESPACE_NOT_SET else "Namespace is empty."
        may_be_empty = method in _NAMESPACE_OPTIONAL
        is_start = method in _STARTS

        def check(request: Any, call: Call) -> None:
            name: str = request.namespace
            if not name:
                if may_be_empty or (id_field is not None and getattr(request, id_field)):
                    return
                raise invalid_argument(empty)
            self._check_length(name)
            call.namespace_id = self._find(name)
            if not is_start:
                self._refuse_deleted(call.namespace_id)

        def check_length_only(request: Any, call: Call) -> None:
            name: str = request.namespace
            if not name and not (id_field is not None and getattr(request, id_field)):
                raise invalid_argument(empty)
            self._check_length(name)

        return check_length_only if method in _LOOKED_UP_BY_HANDLER else check

    def _namespace_or_token(self, request: Any, call: Call) -> None:
        name: str = request.namespace
        named = ""
        if name:
            self._check_length(name)
            named = self._find(name)
        token: bytes = request.task_token
        if not token:
            raise invalid_argument("Task token not set on request.")
        try:
            owner = self._token_namespace(token)
        except ValueError:
            raise invalid_argument("Error deserializing task token.") from None
        if not owner:
            raise invalid_argument("Namespace not set on request.")
        if named and named != owner:
            raise invalid_argument("Operation requested with a token from a different namespace.")
        self._refuse_deleted(owner)
        call.namespace_id = owner

    def _find(self, name: str) -> str:
        found = self._namespaces.id_of(name)
        if found is None:
            raise namespace_not_found(name)
        return found

    def _refuse_deleted(self, namespace_id: str) -> None:
        if namespace_id in self._namespaces.deleted:
            raise namespace_invalid_state(self._namespaces.name_of(namespace_id), State.NAMESPACE_STATE_DELETED, _USABLE)

    def _poll_deadline(self, request: Any, call: Call) -> None:
        if call.deadline is None:
            raise ApiError(Code.INVALID_ARGUMENT, "Context timeout is not set.")
        if call.deadline - self._clock.now() < SHORTEST_LONG_POLL:
            raise failed_precondition("Context timeout is too short.")

    def _check_length(self, name: str) -> None:
        # The limit is in bytes; a character has four at most, so most names need not be encoded.
        if len(name) * 4 > self._length_limit and len(name.encode()) > self._length_limit:
            raise invalid_argument("Namespace length exceeds limit.")
