"""The names and types of search attributes: the server's own, and those a namespace defines."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.api.enums.v1 import IndexedValueType

T = IndexedValueType
TEXT = T.INDEXED_VALUE_TYPE_TEXT
KEYWORD = T.INDEXED_VALUE_TYPE_KEYWORD
INT = T.INDEXED_VALUE_TYPE_INT
DOUBLE = T.INDEXED_VALUE_TYPE_DOUBLE
BOOL = T.INDEXED_VALUE_TYPE_BOOL
DATETIME = T.INDEXED_VALUE_TYPE_DATETIME
KEYWORD_LIST = T.INDEXED_VALUE_TYPE_KEYWORD_LIST

SYSTEM: Mapping[str, IndexedValueType.ValueType] = {
    "WorkflowId": KEYWORD,
    "RunId": KEYWORD,
    "WorkflowType": KEYWORD,
    "StartTime": DATETIME,
    "ExecutionTime": DATETIME,
    "CloseTime": DATETIME,
    "ExecutionStatus": KEYWORD,
    "TaskQueue": KEYWORD,
    "HistoryLength": INT,
    "ExecutionDuration": INT,
    "StateTransitionCount": INT,
    "HistorySizeBytes": INT,
    "ParentWorkflowId": KEYWORD,
    "ParentRunId": KEYWORD,
    "RootWorkflowId": KEYWORD,
    "RootRunId": KEYWORD,
}
"""What every execution has by itself."""

SETTABLE: Mapping[str, IndexedValueType.ValueType] = {
    "TemporalChangeVersion": KEYWORD_LIST,
    "BinaryChecksums": KEYWORD_LIST,
    "BuildIds": KEYWORD_LIST,
    "BatcherNamespace": KEYWORD,
    "BatcherUser": KEYWORD,
    "TemporalScheduledStartTime": DATETIME,
    "TemporalScheduledById": KEYWORD,
    "TemporalSchedulePaused": BOOL,
    "TemporalNamespaceDivision": KEYWORD,
    "TemporalPauseInfo": KEYWORD_LIST,
    "TemporalReportedProblems": KEYWORD_LIST,
}
"""Predefined ones that SDKs and users may set (some do)."""

PREDEFINED: Mapping[str, IndexedValueType.ValueType] = {
    **SETTABLE,
    "TemporalWorkerDeploymentVersion": KEYWORD,
    "TemporalWorkflowVersioningBehavior": KEYWORD,
    "TemporalWorkerDeployment": KEYWORD,
    "TemporalUsedWorkerDeploymentVersions": KEYWORD_LIST,
    "TemporalExternalPayloadCount": INT,
    "TemporalExternalPayloadSizeBytes": INT,
}
"""What the server sets beside a workflow's own ones."""

BUILT_IN: Mapping[str, IndexedValueType.ValueType] = {**SYSTEM, **PREDEFINED}

_RESERVED = frozenset({"NamespaceId", "MemoEncoding", "Memo", "VisibilityTaskKey"})
_RESERVED_PREFIX = "Temporal"


def is_reserved(name: str) -> bool:
    """Whether no namespace may define an attribute of this name."""
    return name in BUILT_IN or name in _RESERVED or name.startswith(_RESERVED_PREFIX)


def type_name(value_type: int) -> str:
    """The spelling that payloads carry and messages show: ``KeywordList``. A number that is no type is shown as it is."""
    if value_type not in IndexedValueType.values():
        return str(value_type)
    words = IndexedValueType.Name(value_type).removeprefix("INDEXED_VALUE_TYPE_").split("_")  # pyright: ignore[reportArgumentType]
    return "".join(word.capitalize() for word in words)
