"""Checks the values that workflows give their search attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from google.protobuf import text_encoding
from temporalio.api.common.v1 import Payload, SearchAttributes

from perdure.core.errors import ApiError, invalid_argument
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace
from perdure.features.search_attributes.types import (
    BOOL,
    BUILT_IN,
    DATETIME,
    DOUBLE,
    INT,
    KEYWORD_LIST,
    PREDEFINED,
    SETTABLE,
    SYSTEM,
    type_name,
)

_DIGITS_BEFORE_POINT = 6
_INT64 = range(-(2**63), 2**63)
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")


class _BadValueError(Exception):
    """A value is not of its attribute's type."""


def validate_search_attributes(attributes: SearchAttributes, namespace: Namespace, limits: Limits) -> SearchAttributes:
    """The attributes as they are kept: with the type in each payload's metadata, as readers expect it.

    Raises ApiError INVALID_ARGUMENT for a name that the namespace does not have, one that only the server sets, a value of another type,
    and for too many or too large ones.
    """
    typed = typed_search_attributes(attributes, namespace, limits)
    check_search_attribute_sizes(attributes, limits)
    return typed


def check_search_attribute_names(attributes: SearchAttributes, namespace: Namespace) -> None:
    """Raises ApiError INVALID_ARGUMENT for a name that the namespace does not have."""
    for name in attributes.indexed_fields:
        if name not in BUILT_IN and name not in namespace.search_attributes:
            raise invalid_argument(f"Namespace {namespace.name} has no mapping defined for search attribute {name}")


def typed_search_attributes(attributes: SearchAttributes, namespace: Namespace, limits: Limits) -> SearchAttributes:
    """Like :func:`validate_search_attributes`, but for the sizes."""
    check_search_attribute_names(attributes, namespace)
    fields = attributes.indexed_fields
    if not fields:
        return attributes
    if len(fields) > limits.search_attribute_keys:
        raise invalid_argument(f"number of search attributes {len(fields)} exceeds limit {limits.search_attribute_keys}")
    typed = SearchAttributes()
    for name in sorted(fields):
        value_type = _type_of(name, namespace.search_attributes)
        try:
            decode_value(fields[name], value_type)
        except _BadValueError:
            raise _bad_value(name, value_type, fields[name]) from None
        typed.indexed_fields[name].CopyFrom(fields[name])
        typed.indexed_fields[name].metadata["type"] = type_name(value_type).encode()
    return typed


def _type_of(name: str, custom: Mapping[str, int]) -> int:
    if name in SYSTEM or (name in PREDEFINED and name not in SETTABLE):
        raise invalid_argument(f"{name} attribute can't be set in SearchAttributes")
    return PREDEFINED.get(name) or custom[name]


def check_search_attribute_sizes(attributes: SearchAttributes, limits: Limits) -> None:
    """Raises ApiError INVALID_ARGUMENT for a value that is too long, and for too much altogether."""
    for name, payload in sorted(attributes.indexed_fields.items()):
        if len(payload.data) > limits.search_attribute_value_bytes:
            raise invalid_argument(
                f"search attribute {name} value size {len(payload.data)} exceeds size limit {limits.search_attribute_value_bytes}"
            )
    if attributes.ByteSize() > limits.search_attributes_total_bytes:
        raise invalid_argument(
            f"total size of search attributes {attributes.ByteSize()} exceeds size limit {limits.search_attributes_total_bytes}"
        )


def decode_value(payload: Payload, value_type: int) -> object:
    """What a payload holds, None for nothing (which removes the attribute).

    A scalar may come alone in a list. Raises an exception that the validation turns into its message.
    """
    value = _decode(payload)
    if value is None:
        return None
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    if not items:
        return None
    if (isinstance(value, list) and len(items) > 1 and value_type != KEYWORD_LIST) or (
        value_type == KEYWORD_LIST and not isinstance(value, list)
    ):
        raise _BadValueError
    if not all(item is None or _fits(item, value_type) for item in items):
        raise _BadValueError
    return cast("object", value)


def _decode(payload: Payload) -> Any:
    encoding = payload.metadata.get("encoding")
    if encoding == b"binary/null":
        return None
    if encoding != b"json/plain":
        raise _BadValueError
    try:
        return json.loads(payload.data)
    except ValueError:
        raise _BadValueError from None


def _fits(value: object, value_type: int) -> bool:
    if value_type == BOOL:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if value_type == INT:
        return isinstance(value, int) and value in _INT64
    if value_type == DOUBLE:
        return isinstance(value, int | float)
    return isinstance(value, str) and (value_type != DATETIME or _is_time(value))


def _is_time(text: str) -> bool:
    if not _RFC3339.fullmatch(text):
        return False
    try:
        # Its fractions may be longer than Python reads, and say nothing about whether the date exists.
        datetime.fromisoformat(re.sub(r"\.\d+", "", text))
    except ValueError:
        return False
    return True


def _bad_value(name: str, value_type: int, payload: Payload) -> ApiError:
    try:
        is_bytes = payload.metadata.get("encoding") == b"binary/plain"
        shown = _shown(list(payload.data)) if is_bytes else _shown(_decode(payload))
    except _BadValueError:
        shown = f"value from <{_shown_payload(payload)}>"
    return invalid_argument(f"invalid value for search attribute {name} of type {type_name(value_type)}: {shown}")


def _shown(value: object) -> str:
    """A JSON value the way the official server's messages show it: ``[a b]``, ``map[k:v]``, numbers as floats."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return str(value).lower()
        case int() | float():
            return _shown_number(float(value))
        case list():
            return f"[{' '.join(_shown(item) for item in cast('list[object]', value))}]"
        case dict():
            fields = cast("dict[str, object]", value)
            return f"map[{' '.join(f'{key}:{_shown(item)}' for key, item in sorted(fields.items()))}]"
        case _:
            return str(value)


def _shown_number(value: float) -> str:
    """The shortest digits that mean this number, with an exponent from the seventh digit before the point on."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)  # JSON has no infinities
    power = len(digits) - 1 + exponent
    if -4 <= power < _DIGITS_BEFORE_POINT or value == 0:
        return f"{Decimal(repr(value)).normalize():f}"
    mantissa = "".join(str(digit) for digit in digits)
    fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' * sign}{mantissa[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _shown_payload(payload: Payload) -> str:
    parts = [
        f'metadata:{{key:"{text_encoding.CEscape(key.encode(), True)}" value:"{text_encoding.CEscape(value, True)}"}}'
        for key, value in sorted(payload.metadata.items())
    ]
    if payload.data:
        parts.append(f'data:"{text_encoding.CEscape(payload.data, False)}"')
    return " ".join(parts)
