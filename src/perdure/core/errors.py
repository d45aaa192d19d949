"""Errors that a caller meets: a gRPC status code, a message in the caller's terms, and a typed detail.

Every refusal in the server is an :class:`ApiError`. Which error carries which detail is the official server's choice
(``temporal.api.errordetails.v1``); an error without a detail sends no ``grpc-status-details-bin`` at all.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from google.protobuf.message import Message
from temporalio.api.enums.v1 import NamespaceState, ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails import v1 as details


class Code(enum.IntEnum):
    """gRPC status codes (the numbers are the protocol's)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ApiError(Exception):
    """A refusal that goes to the caller as it is.

    code: the gRPC status code. message: what is wrong, in the caller's terms. detail: the typed detail, if this error has one.
    """

    def __init__(self, code: Code, message: str, detail: Message | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def __repr__(self) -> str:
        return f"ApiError({self.code.name}, {self.message!r})"


def invalid_argument(message: str) -> ApiError:
    return ApiError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ApiError:
    return ApiError(Code.NOT_FOUND, message, details.NotFoundFailure())


def namespace_not_found(namespace: str) -> ApiError:
    return ApiError(Code.NOT_FOUND, f"Namespace {namespace} is not found.", details.NamespaceNotFoundFailure(namespace=namespace))


def namespace_invalid_state(name: str, state: NamespaceState.ValueType, allowed: Sequence[NamespaceState.ValueType]) -> ApiError:
    """allowed: the states in which the call would have been let through."""

    def said(each: NamespaceState.ValueType) -> str:
        return NamespaceState.Name(each).removeprefix("NAMESPACE_STATE_").capitalize()

    failure = details.NamespaceInvalidStateFailure(namespace=name, state=state, allowed_states=allowed)
    wanted = " or ".join(map(said, allowed))
    return ApiError(Code.FAILED_PRECONDITION, f"Namespace has invalid state: {said(state)}. Must be {wanted}.", failure)


def failed_precondition(message: str) -> ApiError:
    return ApiError(Code.FAILED_PRECONDITION, message)


def workflow_not_ready(message: str) -> ApiError:
    return ApiError(Code.FAILED_PRECONDITION, message, details.WorkflowNotReadyFailure())


def already_started(message: str, start_request_id: str, run_id: str, first_run_id: str = "") -> ApiError:
    """first_run_id: of the chain of runs that `run_id` belongs to."""
    failure = details.WorkflowExecutionAlreadyStartedFailure(
        start_request_id=start_request_id, run_id=run_id, first_execution_run_id=first_run_id
    )
    return ApiError(Code.ALREADY_EXISTS, message, failure)


def permission_denied(message: str, reason: str = "") -> ApiError:
    return ApiError(Code.PERMISSION_DENIED, message, details.PermissionDeniedFailure(reason=reason))


def unimplemented(message: str) -> ApiError:
    return ApiError(Code.UNIMPLEMENTED, message)


def unavailable(message: str) -> ApiError:
    """The caller should try again: nothing is known to have happened, or it is safe to repeat with the same request id."""
    return ApiError(Code.UNAVAILABLE, message)


def resource_exhausted(message: str, cause: ResourceExhaustedCause.ValueType, scope: ResourceExhaustedScope.ValueType) -> ApiError:
    return ApiError(Code.RESOURCE_EXHAUSTED, message, details.ResourceExhaustedFailure(cause=cause, scope=scope))


def busy_workflow(message: str) -> ApiError:
    return resource_exhausted(
        message,
        ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
        ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
    )
