"""The way of a call through the server's front, for every transport: checks, handler, metrics, and the answer to our own bugs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.core.call import Call, Handler, Method, MethodTable
from perdure.core.errors import ApiError, Code, unavailable, unimplemented
from perdure.core.ids import IdSource
from perdure.observability.rpc_metrics import RpcMetrics
from perdure.rpc.checks import Checks
from perdure.store.protocol import StoreError

log = logging.getLogger(__name__)


class Dispatcher:
    """Answers calls of the methods of a table.

    Handlers have to be registered before a method is first asked for.
    """

    def __init__(self, methods: MethodTable, checks: Checks, metrics: RpcMetrics, ids: IdSource) -> None:
        self.methods = methods
        self._ids = ids
        self._checks = checks
        self._metrics = metrics

    def handler(self, method: Method) -> Handler:
        """(request, call) → the handler's answer, after the checks and with metrics. Raises :class:`ApiError` and nothing else.

        A method without a handler answers UNIMPLEMENTED, to those whom the checks let pass.
        """
        handler: Callable[[Any, Call], Awaitable[Any]] = method.handler or _missing(method.name)
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
                raise self.bug(operation, error) from error
            timing = metrics.begin(request.namespace if has_namespace and call.namespace_id else "")
            try:
                response = await handler(request, call)
            except ApiError as error:
                timing.failed(error)
                raise
            except asyncio.CancelledError:
                timing.end()
                raise
            except StoreError as error:
                log.warning("%s: %s", operation, error)
                told = unavailable("The store cannot be read at the moment. Try again.")
                timing.failed(told)
                raise told from error
            except Exception as error:
                told = self.bug(operation, error)
                timing.failed(told)
                raise told from error
            timing.end()
            return response

        return answer

    def bug(self, operation: str, error: BaseException) -> ApiError:
        """What a caller is told when the server itself is at fault; the log has the traceback under the same reference."""
        reference = self._ids.uuid().rpartition("-")[2]
        log.error("bug in %s", operation, exc_info=error, extra={"operation": operation, "reference": reference})
        # UNKNOWN is what happened to the caller's request; clients retry it, as they do UNAVAILABLE.
        return ApiError(
            Code.UNKNOWN,
            f"{operation} met a bug in the server ({type(error).__name__}). This is not your fault. The server's log has the details "
            f"under the reference {reference}; please report them.",
        )


def _missing(name: str) -> Handler:
    message = f"{name} is not implemented by this server."

    async def answer(request: Any, call: Call) -> Any:
        raise unimplemented(message)

    return answer
