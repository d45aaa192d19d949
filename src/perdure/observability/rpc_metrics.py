"""Requests, errors and latencies of the API, by operation and namespace, under the official server's names."""

from __future__ import annotations

from time import perf_counter

from perdure.core.errors import ApiError, Code
from perdure.observability.metrics import Counter, Family, Gauge, Histogram, Registry

FRONTEND = "frontend"
UNKNOWN_NAMESPACE = "_unknown_"

_CALLERS_FAULT = frozenset(
    {
        Code.CANCELLED,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNAUTHENTICATED,
    }
)
"""Errors with these codes are expected of a healthy server and not counted in ``service_errors``."""


def error_type(error: ApiError) -> str:
    """The official name of an error's type: the detail's, else the code's."""
    if error.detail is not None:
        return type(error.detail).__name__.removesuffix("Failure")
    return "".join(word.capitalize() for word in error.code.name.split("_"))


class RpcMetrics:
    """The metrics of all operations."""

    def __init__(self, registry: Registry) -> None:
        self.requests: Family[Counter] = registry.counter(
            "service_requests", "Requests received.", "operation", "namespace", service_name=FRONTEND
        )
        self.errors: Family[Counter] = registry.counter(
            "service_errors", "Requests that failed through the server's fault.", "operation", "namespace", service_name=FRONTEND
        )
        self.typed_errors: Family[Counter] = registry.counter(
            "service_error_with_type", "Requests that failed.", "operation", "namespace", "error_type", service_name=FRONTEND
        )
        self.exhausted: Family[Counter] = registry.counter(
            "service_errors_resource_exhausted",
            "Requests refused by a limit.",
            *("operation", "namespace", "resource_exhausted_cause", "resource_exhausted_scope"),
            service_name=FRONTEND,
        )
        self.latency: Family[Histogram] = registry.histogram(
            "service_latency", "Seconds from request to answer.", "operation", "namespace", service_name=FRONTEND
        )
        self.pending: Family[Gauge] = registry.gauge(
            "service_pending_requests", "Requests being answered.", "operation", "namespace", service_name=FRONTEND
        )

    def operation(self, operation: str) -> OperationMetrics:
        """The metrics of one operation."""
        return OperationMetrics(self, operation)


class OperationMetrics:
    """The metrics of one operation, by namespace."""

    __slots__ = ("_all", "_by_namespace", "_operation")

    def __init__(self, metrics: RpcMetrics, operation: str) -> None:
        self._all = metrics
        self._operation = operation
        self._by_namespace: dict[str, _Tally] = {}

    def begin(self, namespace: str) -> Timing:
        """A request of a namespace ("" for none) is being answered."""
        tally = self._by_namespace.get(namespace)
        if tally is None:
            tally = self._by_namespace[namespace] = _Tally(self._all, self._operation, namespace or UNKNOWN_NAMESPACE)
        tally.requests.value += 1
        tally.pending.value += 1
        return Timing(tally)

    def refused(self, error: ApiError) -> None:
        """A request was refused before its namespace was known or its handler ran."""
        self.begin("").failed(error)


class _Tally:
    __slots__ = ("latency", "metrics", "namespace", "operation", "pending", "requests")

    def __init__(self, metrics: RpcMetrics, operation: str, namespace: str) -> None:
        self.metrics = metrics
        self.operation = operation
        self.namespace = namespace
        self.requests = metrics.requests.labels(operation, namespace)
        self.pending = metrics.pending.labels(operation, namespace)
        self.latency = metrics.latency.labels(operation, namespace)


class Timing:
    """One request that is being answered. Exactly one of its methods has to be called, once."""

    __slots__ = ("_started", "_tally")

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._started = perf_counter()

    def end(self) -> None:
        """The request has its answer, or nobody waits for it any more."""
        tally = self._tally
        tally.pending.value -= 1
        tally.latency.observe(perf_counter() - self._started)

    def failed(self, error: ApiError) -> None:
        """The request was answered with an error."""
        self.end()
        tally = self._tally
        metrics, operation, namespace = tally.metrics, tally.operation, tally.namespace
        metrics.typed_errors.labels(operation, namespace, error_type(error)).inc()
        if error.code == Code.RESOURCE_EXHAUSTED and error.detail is not None:
            cause, scope = _exhausted(error)
            metrics.exhausted.labels(operation, namespace, cause, scope).inc()
            if scope == "Namespace":
                return
        if error.code not in _CALLERS_FAULT:
            metrics.errors.labels(operation, namespace).inc()


def _exhausted(error: ApiError) -> tuple[str, str]:
    from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope
    from temporalio.api.errordetails.v1 import ResourceExhaustedFailure

    detail = error.detail
    if not isinstance(detail, ResourceExhaustedFailure):  # several operations in one call: each has its own
        return "Unspecified", "Unspecified"
    cause = ResourceExhaustedCause.Name(detail.cause).removeprefix("RESOURCE_EXHAUSTED_CAUSE_")
    scope = ResourceExhaustedScope.Name(detail.scope).removeprefix("RESOURCE_EXHAUSTED_SCOPE_")
    return "".join(word.capitalize() for word in cause.split("_")), scope.capitalize()
