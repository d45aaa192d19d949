"""E13: which values search attributes take, and in which words others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, SearchAttributes

from perdure.core.errors import ApiError, Code
from perdure.core.limits import Limits
from perdure.features.namespace.registry import Namespace
from perdure.features.search_attributes.types import BUILT_IN, is_reserved, type_name
from perdure.features.search_attributes.values import validate_search_attributes

TYPES = {"Text": 1, "Keyword": 2, "Int": 3, "Double": 4, "Bool": 5, "Datetime": 6, "KeywordList": 7}
NAMESPACE = Namespace(id="i", name="n", search_attributes={f"My{name}": number for name, number in TYPES.items()})

GOOD: list[tuple[str, Any]] = [
    ("Keyword", "red"),
    ("Keyword", ""),
    ("Keyword", ["a"]),
    ("Keyword", None),
    ("Int", -(2**63)),
    ("Int", [1]),
    ("Double", 1),
    ("Double", -1e300),
    ("Bool", False),
    ("Datetime", "2024-01-01T01:00:00.123456789+01:00"),
    ("KeywordList", ["a", "a"]),
    ("KeywordList", []),
    ("Text", ["one"]),
]
BAD: list[tuple[str, Any, str]] = [
    ("Keyword", 1, "1"),
    ("Keyword", True, "true"),
    ("Keyword", ["a", "b"], "[a b]"),
    ("Int", 1.0, "1"),
    ("Int", 1000.0, "1000"),
    ("Int", 2**63, "9.223372036854776e+18"),
    ("Int", "1", "1"),
    ("Double", "x", "x"),
    ("Bool", "true", "true"),
    ("Bool", 1, "1"),
    ("Datetime", "2024-01-01", "2024-01-01"),
    ("Datetime", "2024-02-30T00:00:00Z", "2024-02-30T00:00:00Z"),
    ("Datetime", 1704067200, "1.7040672e+09"),
    ("KeywordList", "a", "a"),
    ("KeywordList", [1], "[1]"),
    ("Text", {"a": [None]}, "map[a:[<nil>]]"),
]


def attributes(**values: Any) -> SearchAttributes:
    fields = {name: Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode()) for name, value in values.items()}
    return SearchAttributes(indexed_fields=fields)


def refusal(given_attributes: SearchAttributes, limits: Limits | None = None) -> str:
    with pytest.raises(ApiError) as caught:
        validate_search_attributes(given_attributes, NAMESPACE, limits or Limits())
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


def code(given_attributes: SearchAttributes) -> Code | None:
    """Of the refusal, None when they are taken."""
    try:
        validate_search_attributes(given_attributes, NAMESPACE, Limits())
    except ApiError as error:
        return error.code
    return None


@pytest.mark.parametrize(("value_type", "value"), GOOD)
def test_good_values_get_their_type(value_type: str, value: Any) -> None:
    kept = validate_search_attributes(attributes(**{f"My{value_type}": value}), NAMESPACE, Limits()).indexed_fields[f"My{value_type}"]
    assert kept.metadata["type"] == value_type.encode()
    assert json.loads(kept.data) == value


@pytest.mark.parametrize(("value_type", "value", "shown"), BAD)
def test_bad_values_are_shown(value_type: str, value: Any, shown: str) -> None:
    message = refusal(attributes(**{f"My{value_type}": value}))
    assert message == f"invalid value for search attribute My{value_type} of type {value_type}: {shown}"


def test_names_are_checked() -> None:
    assert refusal(attributes(Nope="x")) == "Namespace n has no mapping defined for search attribute Nope"
    assert refusal(attributes(WorkflowId="x")) == "WorkflowId attribute can't be set in SearchAttributes"
    assert refusal(attributes(TemporalWorkerDeployment="x")) == "TemporalWorkerDeployment attribute can't be set in SearchAttributes"
    assert all(is_reserved(name) for name in (*BUILT_IN, "TemporalAnything", "Memo"))
    assert type_name(7) == "KeywordList"


def test_sizes_and_numbers_are_bounded() -> None:
    assert refusal(attributes(MyKeyword="x" * 2047)) == "search attribute MyKeyword value size 2049 exceeds size limit 2048"
    assert refusal(attributes(MyKeyword="a", MyInt=1), Limits(search_attribute_keys=1)) == "number of search attributes 2 exceeds limit 1"
    assert refusal(attributes(MyKeyword="a"), Limits(search_attributes_total_bytes=5)).startswith("total size of search attributes ")


def test_payloads_of_other_encodings_are_refused() -> None:
    bare = SearchAttributes(indexed_fields={"MyKeyword": Payload(data=b'"red"')})
    assert refusal(bare).endswith(r'of type Keyword: value from <data:"\"red\"">')
    binary = SearchAttributes(indexed_fields={"MyKeyword": Payload(metadata={"encoding": b"binary/plain"}, data=b"x")})
    assert refusal(binary).endswith("of type Keyword: [120]")
    null = SearchAttributes(indexed_fields={"MyKeyword": Payload(metadata={"encoding": b"binary/null"})})
    assert "MyKeyword" in validate_search_attributes(null, NAMESPACE, Limits()).indexed_fields


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(TYPES)), json_values)
def test_every_value_is_taken_or_refused(value_type: str, value: Any) -> None:
    assert code(attributes(**{f"My{value_type}": value})) in (None, Code.INVALID_ARGUMENT)


@given(st.binary(max_size=50), st.binary(max_size=20))
def test_no_bytes_are_a_bug_of_ours(data: bytes, encoding: bytes) -> None:
    payload = Payload(metadata={"encoding": encoding}, data=data)
    assert code(SearchAttributes(indexed_fields={"MyKeyword": payload})) in (None, Code.INVALID_ARGUMENT)
