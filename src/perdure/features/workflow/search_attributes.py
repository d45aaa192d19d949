"""Search attributes that callers and workers set: which names exist, which values they take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import IndexedValueType

from perdure.core.errors import invalid_argument
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace

T = IndexedValueType

SYSTEM: Mapping[str, int] = {
    "WorkflowId": T.INDEXED_VALUE_TYPE_KEYWORD,
    "RunId": T.INDEXED_VALUE_TYPE_KEYWORD,
    "WorkflowType": T.INDEXED_VALUE_TYPE_KEYWORD,
    "StartTime": T.INDEXED_VALUE_TYPE_DATETIME,
    "ExecutionTime": T.INDEXED_VALUE_TYPE_DATETIME,
    "CloseTime": T.INDEXED_VALUE_TYPE_DATETIME,
    "ExecutionStatus": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TaskQueue": T.INDEXED_VALUE_TYPE_KEYWORD,
    "HistoryLength": T.INDEXED_VALUE_TYPE_INT,
    "ExecutionDuration": T.INDEXED_VALUE_TYPE_INT,
    "StateTransitionCount": T.INDEXED_VALUE_TYPE_INT,
    "HistorySizeBytes": T.INDEXED_VALUE_TYPE_INT,
    "ParentWorkflowId": T.INDEXED_VALUE_TYPE_KEYWORD,
    "ParentRunId": T.INDEXED_VALUE_TYPE_KEYWORD,
    "RootWorkflowId": T.INDEXED_VALUE_TYPE_KEYWORD,
    "RootRunId": T.INDEXED_VALUE_TYPE_KEYWORD,
}
"""Derived from the execution itself: nobody may set them."""

PREDEFINED: Mapping[str, int] = {
    "TemporalChangeVersion": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
    "BinaryChecksums": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
    "BuildIds": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
    "BatcherNamespace": T.INDEXED_VALUE_TYPE_KEYWORD,
    "BatcherUser": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalScheduledStartTime": T.INDEXED_VALUE_TYPE_DATETIME,
    "TemporalScheduledById": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalSchedulePaused": T.INDEXED_VALUE_TYPE_BOOL,
    "TemporalNamespaceDivision": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalPauseInfo": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
    "TemporalReportedProblems": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}
"""Exist in every namespace; SDKs set some of them."""

SERVER_ONLY: Mapping[str, int] = {
    "TemporalWorkerDeploymentVersion": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalWorkflowVersioningBehavior": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalWorkerDeployment": T.INDEXED_VALUE_TYPE_KEYWORD,
    "TemporalUsedWorkerDeploymentVersions": T.INDEXED_VALUE_TYPE_KEYWORD_LIST,
    "TemporalExternalPayloadCount": T.INDEXED_VALUE_TYPE_INT,
    "TemporalExternalPayloadSizeBytes": T.INDEXED_VALUE_TYPE_INT,
}
"""Exist in every namespace; only the server sets them."""

TYPE_NAMES: Mapping[int, str] = {
    T.INDEXED_VALUE_TYPE_TEXT: "Text",
    T.INDEXED_VALUE_TYPE_KEYWORD: "Keyword",
    T.INDEXED_VALUE_TYPE_INT: "Int",
    T.INDEXED_VALUE_TYPE_DOUBLE: "Double",
    T.INDEXED_VALUE_TYPE_BOOL: "Bool",
    T.INDEXED_VALUE_TYPE_DATETIME: "Datetime",
    T.INDEXED_VALUE_TYPE_KEYWORD_LIST: "KeywordList",
}


def is_null(payload: Payload) -> bool:
    """Whether a payload means "remove this": null, an empty list, or no value at all."""
    return payload.data in (b"", b"null", b"[]")


def check_names(namespace: Namespace, fields: Mapping[str, Payload]) -> None:
    """Raises ApiError INVALID_ARGUMENT for a name that the namespace does not know."""
    for name in fields:
        if name not in namespace.search_attributes and name not in SYSTEM and name not in PREDEFINED and name not in SERVER_ONLY:
            raise invalid_argument(f"Namespace {namespace.name} has no mapping defined for search attribute {name}")


def check_values(namespace: Namespace, fields: Mapping[str, Payload], limits: Limits) -> None:
    """Raises ApiError INVALID_ARGUMENT for too many attributes, one that may not be set, or a value of the wrong type."""
    if len(fields) > limits.search_attribute_keys:
        raise invalid_argument(f"number of search attributes {len(fields)} exceeds limit {limits.search_attribute_keys}")
    for name, payload in fields.items():
        if name in SYSTEM or name in SERVER_ONLY:
            raise invalid_argument(f"{name} attribute can't be set in SearchAttributes")
        value_type = namespace.search_attributes.get(name) or PREDEFINED[name]
        try:
            decode_value(payload, value_type)
        except ValueError:
            raise invalid_argument(
                f"invalid value for search attribute {name} of type {TYPE_NAMES[value_type]}: {_shown(payload)}"
            ) from None


def check_size(fields: Mapping[str, Payload], limits: Limits) -> None:
    """Raises ApiError INVALID_ARGUMENT for a value that is too long, or too much altogether."""
    for name, payload in fields.items():
        if len(payload.data) > limits.search_attribute_value_bytes:
            raise invalid_argument(
                f"search attribute {name} value size {len(payload.data)} exceeds size limit {limits.search_attribute_value_bytes}"
            )
    total = SearchAttributes(indexed_fields=fields).ByteSize()
    if total > limits.search_attributes_total_bytes:
        raise invalid_argument(f"total size of search attributes {total} exceeds size limit {limits.search_attributes_total_bytes}")


def decode_value(payload: Payload, value_type: int) -> object:
    """The value: str, int, float, bool, datetime, list of str, or None. Raises ValueError for one that the type does not take."""
    value = _json_value(payload)
    if value is None:
        return None
    if value_type == T.INDEXED_VALUE_TYPE_KEYWORD_LIST:
        if isinstance(value, list):
            items = cast("list[object]", value)
            if all(item is None or isinstance(item, str) for item in items):
                return [item or "" for item in items] or None
        raise ValueError("not a list of strings")
    if isinstance(value, list):
        items = cast("list[object]", value)
        if len(items) > 1:
            raise ValueError("more than one value")
        value = items[0] if items else None
        if value is None:
            return None
    return _typed(value, value_type)


def _typed(value: object, value_type: int) -> object:
    if value_type in (T.INDEXED_VALUE_TYPE_TEXT, T.INDEXED_VALUE_TYPE_KEYWORD) and isinstance(value, str):
        return value
    if value_type == T.INDEXED_VALUE_TYPE_BOOL and isinstance(value, bool):
        return value
    if value_type == T.INDEXED_VALUE_TYPE_INT and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if value_type == T.INDEXED_VALUE_TYPE_DOUBLE and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value_type == T.INDEXED_VALUE_TYPE_DATETIME and isinstance(value, str):
        when = datetime.fromisoformat(value)
        if when.tzinfo is not None and "T" in value:
            return when
    raise ValueError(f"not a {TYPE_NAMES[value_type]}")


def _json_value(payload: Payload) -> Any:
    encoding = payload.metadata.get("encoding")
    if encoding == b"binary/null":
        return None
    if encoding != b"json/plain":
        raise ValueError("not JSON")
    return json.loads(payload.data, parse_constant=_no_constant)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _shown(payload: Payload) -> str:
    """How the official server prints the value in its refusals."""
    try:
        return _go_text(_json_value(payload))
    except ValueError:
        if payload.metadata.get("encoding") == b"binary/plain":
            return "[" + " ".join(str(byte) for byte in payload.data) + "]"
        return f"value from <{payload.data.decode(errors='replace')}>"


def _go_text(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _go_number(float(value))
    if isinstance(value, list):
        return "[" + " ".join(_go_text(item) for item in cast("list[object]", value)) + "]"
    if isinstance(value, dict):
        entries = sorted(cast("dict[str, object]", value).items())
        return "map[" + " ".join(f"{key}:{_go_text(item)}" for key, item in entries) + "]"
    return str(value)


def _go_number(value: float) -> str:
    """Shortest digits; an exponent from a million on."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    number = Decimal(repr(value)).normalize()
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number:f}"
    digits = "".join(str(digit) for digit in number.as_tuple().digits)
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{'-' if value < 0 else ''}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
