"""Completion callbacks: whom to tell when a run has closed."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from temporalio.api.common.v1 import Callback

from perdure.core.errors import invalid_argument, unimplemented
from perdure.core.limits import Limits

SYSTEM_URL = "temporal://system"
"""Stands for the caller workflow's own server: no URL is called."""


class CompletionCallback(msgspec.Struct):
    """A callback that waits for the run to close. request_id: of the request that attached it."""

    callback: Callback
    registered_at: int
    request_id: str


def check_callbacks(callbacks: Sequence[Callback], limits: Limits) -> None:
    """Refuse callbacks that could not be called, and write header names in lower case.

    Raises ApiError INVALID_ARGUMENT, or UNIMPLEMENTED for a kind of callback that the server does not know.
    """
    if len(callbacks) > limits.callbacks_per_execution:
        raise invalid_argument(f"cannot attach more than {limits.callbacks_per_execution} callbacks to an execution")
    for callback in callbacks:
        variant = callback.WhichOneof("variant")
        if variant == "nexus":
            _check_nexus(callback.nexus, limits)
        elif variant != "internal":
            raise unimplemented(f"unknown callback variant: {'<nil>' if variant is None else variant}")


def _check_nexus(callback: Callback.Nexus, limits: Limits) -> None:
    if len(callback.url.encode()) > limits.callback_url_length:
        raise invalid_argument(f"invalid url: url length longer than max length allowed of {limits.callback_url_length}")
    check_callback_url(callback.url)
    header = dict(callback.header)
    if sum(len(name.encode()) + len(value.encode()) for name, value in header.items()) > limits.callback_header_bytes:
        raise invalid_argument(f"invalid header: header size longer than max allowed size of {limits.callback_header_bytes}")
    callback.header.clear()
    callback.header.update({name.lower(): value for name, value in header.items()})


def check_callback_url(url: str) -> None:
    """Only HTTP addresses can be called back. Raises ApiError INVALID_ARGUMENT."""
    if url == SYSTEM_URL:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise invalid_argument(f"invalid callback url: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise invalid_argument(f"invalid url: unknown scheme: {url}")
    if not parts.netloc:
        raise invalid_argument("invalid url: missing host")
