"""Cron schedules against a slow oracle that looks at every minute, and against known dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.clock import HOUR, MINUTE, SECOND
from perdure.core.errors import ApiError
from perdure.features.workflow.run.cron import BadCronError, Calendar, check_cron, cron_backoff, parse_cron

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"]


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * SECOND


def shown(instant: int | None) -> str:
    return "never" if instant is None else datetime.fromtimestamp(instant // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    number = st.integers(lowest, highest)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.integers(1, highest).map(lambda step: f"*/{step}"),
        st.tuples(number, st.integers(1, 20)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.lists(number, min_size=1, max_size=3).map(lambda numbers: ",".join(map(str, numbers))),
    )


@settings(max_examples=150, deadline=None)
@given(
    field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6), st.sampled_from(ZONES), st.integers(1_600_000_000, 1_760_000_000)
)  # fmt: skip
def test_fires_at_each_minute_that_the_wall_clock_matches(
    minute: str, hour: str, day: str, month: str, weekday: str, zone: str, start: int
) -> None:
    schedule = parse_cron(f"CRON_TZ={zone} {minute} {hour} {day} {month} {weekday}")
    assert isinstance(schedule, Calendar)
    start -= start % 60
    found = schedule.next_after(start * SECOND)
    # Every minute of the next three days, and the found one itself.
    for candidate in range(start + 60, start + 3 * 86_400, 60):
        if matches(schedule, candidate, zone):
            assert found == candidate * SECOND
            return
    assert found is None or found > (start + 3 * 86_400 - 60) * SECOND
    if found is not None:
        assert matches(schedule, found // SECOND, zone)


def matches(schedule: Calendar, seconds: int, zone: str) -> bool:
    local = datetime.fromtimestamp(seconds, ZoneInfo(zone))
    day, weekday = local.day in schedule.days.values, (local.weekday() + 1) % 7 in schedule.weekdays.values
    either = schedule.days.is_any or schedule.weekdays.is_any
    return (
        local.minute in schedule.minutes and local.hour in schedule.hours and local.month in schedule.months
        and ((day and weekday) if either else (day or weekday))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("* * * * *", "2024-01-01T00:00:30Z", "2024-01-01T00:01:00Z"),
        ("0 12 * * *", "2024-01-01T12:00:00Z", "2024-01-02T12:00:00Z"),
        ("0 0 29 2 *", "2023-01-01T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("0 0 13 * 5", "2024-01-01T00:00:00Z", "2024-01-05T00:00:00Z"),  # day of month or day of week
        ("0 0 */2 * 5", "2024-01-05T00:00:00Z", "2024-01-07T00:00:00Z"),  # a stepped star is a choice like any other
        ("0 0 ? jan-mar MON", "2024-03-26T00:00:00Z", "2025-01-06T00:00:00Z"),
        ("@weekly", "2024-01-01T00:00:00Z", "2024-01-07T00:00:00Z"),
        ("CRON_TZ=America/New_York 30 2 * * *", "2024-03-10T05:00:00Z", "2024-03-11T06:30:00Z"),  # 2:30 is skipped on the 10th
        ("CRON_TZ=America/New_York 30 1 * * *", "2024-11-03T05:30:00Z", "2024-11-03T06:30:00Z"),  # 1:30 comes twice on the 3rd
        ("TZ=Asia/Kathmandu 0 0 * * *", "2024-01-01T00:00:00Z", "2024-01-01T18:15:00Z"),
        ("0 0 30 2 *", "2024-01-01T00:00:00Z", "never"),
        ("@every 1h30m", "2024-01-01T00:00:00.5+00:00", "2024-01-01T01:30:00Z"),
        ("@every -1s", "2024-01-01T00:00:00Z", "2024-01-01T00:00:01Z"),
    ],
)
def test_next_time(text: str, after: str, expected: str) -> None:
    assert shown(parse_cron(text).next_after(at(after))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "nonsense", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "5-1 * * * *",
        "*/0 * * * *", "1/2/3 * * * *",
        "1-2-3 * * * *", "-1 * * * *", "@never", "@every", "@every x", "@every 1d", "CRON_TZ=Nowhere/At_All * * * * *",
        "CRON_TZ=UTC", "CRON_TZ=../etc * * * * *", "x * * * *",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(BadCronError):
        parse_cron(text)


def test_check_says_what_the_official_server_says() -> None:
    check_cron("", 0)
    with pytest.raises(ApiError, match=r"^invalid CronSchedule\.$"):
        check_cron("nonsense", 0)
    with pytest.raises(ApiError, match=r"no time can be found to satisfy the schedule"):
        check_cron("0 0 30 2 *", 0)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_backoff_never_lies_in_the_past(scheduled: int, elapsed: int) -> None:
    scheduled_at, now = scheduled * SECOND, (scheduled + elapsed) * SECOND + 1
    for text in ("*/7 * * * *", "@every 90s"):
        backoff = cron_backoff(text, scheduled_at, now)
        assert backoff is not None
        assert 0 <= backoff <= 7 * MINUTE
        assert backoff % SECOND == 0


def test_backoff_counts_from_the_scheduled_time() -> None:
    start = at("2024-01-01T00:00:00Z")
    assert cron_backoff("", start, start) is None
    assert cron_backoff("@every 1h", start, start + 61 * MINUTE) == 59 * MINUTE
    assert cron_backoff("0 * * * *", start, start + 61 * MINUTE) == 59 * MINUTE
    assert cron_backoff("0 * * * *", start + HOUR, start + HOUR - 500_000_000) == SECOND


def test_a_far_year_is_not_searched_day_by_day() -> None:
    began = datetime.now(UTC)
    assert parse_cron("0 0 31 4 *").next_after(0) is None
    assert datetime.now(UTC) - began < timedelta(seconds=2)
