"""The way of a call through the server's front, for every transport: checks, handler, metrics, and the answer to our own bugs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.core.call import Call, Handler, Method, MethodTable
from perdure.core.errors import ApiError, Code, unimplemented
from perdure.observability.rpc_metrics import RpcMetrics
from perdure.rpc.checks import Checks

log = logging.getLogger(__name__)


def bug(operation: str, error: BaseException) -> ApiError:
    """What a caller is told when the server itself is at fault; the log has the traceback under the same reference.

    The code is UNKNOWN: it is honest about what happened, and clients retry it as they retry UNAVAILABLE.
    """
    reference = uuid.uuid4().hex[:12]
    log.error("bug in %s (reference %s)", operation, reference, exc_info=error)
    return ApiError(
        Code.UNKNOWN,
        f"{operation} met a bug in the server ({type(error).__name__}). This is not your fault. The server's log has the details "
        f"under the reference {reference}; please report them.",
    )


class Dispatcher:
    """Answers calls of the methods of a table.

    Handlers have to be registered before a method is first asked for.
    """

    def __init__(self, methods: MethodTable, checks: Checks, metrics: RpcMetrics) -> None:
        self.methods = methods
        self._checks = checks
        self._metrics = metrics

    def handler(self, method: Method) -> Handler:
        """(request, call) → the handler's answer, after the checks and with metrics. Raises :class:`ApiError` and nothing else."""
        if method.handler is None:
            return self._not_implemented(method)
        handler: Callable[[Any, Call], Awaitable[Any]] = method.handler
        checks = self._checks.of(method)
        operation = f"Operator{method.name}" if method.service.endswith(".OperatorService") else method.name
        metrics = self._metrics.operation(operation)
        has_namespace = "namespace" in method.request_type.DESCRIPTOR.fields_by_name

        async def answer(request: Any, call: Call) -> Any:
            try:
                for check in checks:
                    check(request, call)
            except ApiError as error:
                metrics.refused(error)
                raise
            except Exception as error:
                raise bug(operation, error) from error
            timing = metrics.begin(request.namespace if has_namespace and call.namespace_id else "")
            try:
                response = await handler(request, call)
            except ApiError as error:
                timing.failed(error)
                raise
            except asyncio.CancelledError:
                timing.end()
                raise
            except Exception as error:
                told = bug(operation, error)
                timing.failed(told)
                raise told from error
            timing.end()
            return response

        return answer

    def _not_implemented(self, method: Method) -> Handler:
        metrics = self._metrics.operation(method.name)
        message = f"{method.name} is not implemented by this server."

        async def answer(request: Any, call: Call) -> Any:
            error = unimplemented(message)
            metrics.refused(error)
            raise error

        return answer
