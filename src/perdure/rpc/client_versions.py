"""Which versions of the official clients the server works with, and whether a client says that it works with the server."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from temporalio.api.errordetails import v1 as details

from perdure.core.call import Call
from perdure.core.compatibility import SERVER_VERSION, SUPPORTED_CLIENTS
from perdure.core.errors import ApiError, Code, invalid_argument

Version = tuple[int, int, int, tuple[int, tuple[tuple[int, int, str], ...]]]
"""Compares as semantic versions do: a pre-release is less than its release, numbers in it are less than words."""

_COMPARATOR = re.compile(r"(?P<operator>[<>!=]*)\s*(?P<version>[^\s<>!=]*)")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    "=": operator.eq,
    "==": operator.eq,
    "!": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def parse_version(text: str) -> Version:
    """A semantic version. Raises ValueError saying what is wrong with it."""
    if not text:
        raise ValueError("Version string empty")
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise ValueError("No Major.Minor.Patch elements found")
    patch, _, build = parts[2].partition("+")
    patch, dash, prerelease = patch.partition("-")
    numbers = [_number(number, name) for number, name in zip((parts[0], parts[1], patch), ("major", "minor", "patch"), strict=True)]
    for part in (*(prerelease.split(".") if dash else ()), *(build.split(".") if "+" in parts[2] else ())):
        if not re.fullmatch(r"[0-9A-Za-z-]+", part):
            raise ValueError(f'Invalid character(s) found in prerelease or build meta data "{part}"')
    order = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in prerelease.split(".")) if dash else ()
    return numbers[0], numbers[1], numbers[2], (0 if dash else 1, order)


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f'Invalid character(s) found in {name} number "{text}"')
    if len(text) > 1 and text[0] == "0":
        raise ValueError(f'{name.capitalize()} number must not contain leading zeroes "{text}"')
    if len(text) > 20:
        raise ValueError(f'{name.capitalize()} number "{text}" is out of range')
    return int(text)


def in_range(version: Version, text: str) -> bool:
    """Whether a version is in a range like ``>=1.0.0 <2.0.0 || 3.0.0``. Raises ValueError saying what is wrong with the range."""
    found = False
    for alternative in text.split("||"):
        comparators = [match for match in _COMPARATOR.finditer(alternative) if match.group(0).strip()]
        if not comparators:
            raise ValueError("empty range")
        matches = True
        for comparator in comparators:
            name, wanted = comparator["operator"], comparator["version"]
            if name not in _OPERATORS:
                raise ValueError(f'Could not parse comparator "{name}" in "{comparator.group(0).strip()}"')
            if not wanted[:1].isdigit():
                raise ValueError(f'Could not get version from string: "{comparator.group(0).strip()}"')
            try:
                parsed = parse_version(wanted)
            except ValueError as error:
                raise ValueError(f'Could not parse version "{wanted}" in "{comparator.group(0).strip()}": {error}') from None
            matches = matches and _OPERATORS[name](version, parsed)
        found = found or matches
    return found


_SERVER = parse_version(SERVER_VERSION)


@lru_cache(maxsize=256)
def _refusal(name: str, version: str, server_versions: str) -> ApiError | None:
    supported = SUPPORTED_CLIENTS.get(name)
    if supported is not None:
        try:
            is_supported = in_range(parse_version(version), supported)
        except ValueError as error:
            return invalid_argument(f"Unable to parse client version: {error}")
        if not is_supported:
            return ApiError(
                Code.FAILED_PRECONDITION,
                f"Client version {version} is not supported. Server supports {name} versions: {supported}",
                details.ClientVersionNotSupportedFailure(client_version=version, client_name=name, supported_versions=supported),
            )
    if server_versions:
        try:
            is_supported = in_range(_SERVER, server_versions)
        except ValueError as error:
            return invalid_argument(f"Unable to parse supported server versions: {error}")
        if not is_supported:
            return ApiError(
                Code.FAILED_PRECONDITION,
                f"Server version {SERVER_VERSION} is not supported. Client supports server versions: {server_versions}",
                details.ServerVersionNotSupportedFailure(server_version=SERVER_VERSION, client_supported_server_versions=server_versions),
            )
    return None


def check_client_version(request: Any, call: Call) -> None:
    """Refuse a client of a version that the server does not know how to serve, or that does not want this server."""
    headers = call.headers
    name, version = headers.get("client-name", ""), headers.get("client-version", "")
    if not name or not version:
        return
    refusal = _refusal(name, version, headers.get("supported-server-versions", ""))
    if refusal is not None:
        raise ApiError(refusal.code, refusal.message, refusal.detail)
