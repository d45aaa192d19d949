"""Limits: official defaults, changed by official keys, refused with the key's name."""

from __future__ import annotations

import dataclasses

import pytest

from perdure.core.clock import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from perdure.core.limits import LONGEST_DURATION, LimitError, Limits, RetryDefaults, format_duration, keys_of, known_keys, parse_duration


def test_defaults_are_the_official_ones() -> None:
    limits = Limits()
    assert limits.max_id_length == 1000
    assert limits.blob_size_error_bytes == 2 * 1024 * 1024
    assert limits.history_count_suggest_continue_as_new == 4096
    assert limits.matching_long_poll_ns == 60 * SECOND
    assert limits.history_long_poll_ns == 20 * SECOND
    assert limits == Limits.from_dynamic_config({})


def test_keys_are_found_in_any_case_and_unknown_ones_left_alone() -> None:
    limits = Limits.from_dynamic_config(
        {"LIMIT.historycount.suggestcontinueasnew": 50, "limit.maxIDLength": 255, "history.enableChasm": True, "no.such.key": {"a": [1]}}
    )
    assert limits.history_count_suggest_continue_as_new == 50
    assert limits.max_id_length == 255
    assert dataclasses.replace(limits, history_count_suggest_continue_as_new=4096, max_id_length=1000) == Limits()


def test_both_keys_of_a_limit_with_two_official_implementations_set_it() -> None:
    assert len(keys_of("nexus_operations_per_workflow")) == 2
    for key in keys_of("nexus_operations_per_workflow"):
        assert Limits.from_dynamic_config({key: 7}).nexus_operations_per_workflow == 7


@pytest.mark.parametrize("key", sorted(known_keys()))
def test_every_key_takes_its_own_default_and_refuses_nonsense(key: str) -> None:
    name = known_keys()[key]
    default = getattr(Limits(), name)
    if isinstance(default, RetryDefaults):
        given: object = {"InitialIntervalInSeconds": 1, "MaximumIntervalCoefficient": 100, "BackoffCoefficient": 2.0, "MaximumAttempts": 0}
    else:
        given = format_duration(default) if name.endswith("_ns") else default
    assert Limits.from_dynamic_config({key: given}) == Limits()
    with pytest.raises(LimitError, match=key):
        Limits.from_dynamic_config({key: "nonsense"})
    with pytest.raises(LimitError, match=key):
        Limits.from_dynamic_config({key: None})


@pytest.mark.parametrize("value", [-1, 1.5, True, "5", [5]])
def test_a_count_wants_a_whole_number(value: object) -> None:
    with pytest.raises(LimitError, match=r"limit\.maxIDLength: wants a whole number, 0 or more, got"):
        Limits.from_dynamic_config({"limit.maxIDLength": value})


def test_zero_is_a_number() -> None:
    assert Limits.from_dynamic_config({"limit.maxIDLength": 0}).max_id_length == 0


def test_a_ratio_takes_whole_numbers_too() -> None:
    ratio = Limits.from_dynamic_config({"frontend.namespaceBurstRatio": 3}).namespace_burst_ratio
    assert ratio == 3.0
    assert isinstance(ratio, float)


def test_retry_defaults_keep_what_is_left_out() -> None:
    limits = Limits.from_dynamic_config({"history.defaultActivityRetryPolicy": {"initialintervalinseconds": "2s", "MaximumAttempts": 3}})
    assert limits.default_activity_retry == RetryDefaults(initial_interval_ns=2 * SECOND, maximum_attempts=3)
    assert limits.default_workflow_retry == RetryDefaults()
    with pytest.raises(LimitError, match="InitialIntervalInSeconds"):
        Limits.from_dynamic_config({"history.defaultActivityRetryPolicy": {"Attempts": 3}})


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("10s", 10 * SECOND),
        ("1m30s", 90 * SECOND),
        ("500ms", 500 * MILLISECOND),
        ("1.5h", HOUR + 30 * MINUTE),
        ("7d", 7 * DAY),
        ("0s", 0),
        ("20", 20 * SECOND),
        (20, 20 * SECOND),
        (0.25, 250 * MILLISECOND),
    ],
)
def test_durations(text: object, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


def test_a_duration_has_an_end() -> None:
    assert parse_duration("36500d") == LONGEST_DURATION
    for text in ("36500d1ns", "100000d", 10**30):
        with pytest.raises(ValueError, match=r"at most 36500d \(a hundred years\)"):
            parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1s 2m x", "1w", "ten", True, None, -5, float("nan"), float("inf")])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration(text)
