"""Cron schedules: five fields or a descriptor, in a time zone; the dialect of the official server.

A schedule fires at every instant at which the clock on the wall of its time zone shows a matching minute: twice where an hour is repeated,
never where it is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from perdure.core.clock import HOUR, MICROSECOND, MILLISECOND, MINUTE, SECOND
from perdure.core.errors import invalid_argument

YEARS_AHEAD = 5
"""A schedule that does not fire within so many years never does."""

_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}

_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_UNITS = {"ns": 1, "us": MICROSECOND, "µs": MICROSECOND, "μs": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR}
_DURATION = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


class BadCronError(ValueError):
    """Text that is no cron schedule."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Which values match; is_any: it was given as a star, which takes no part in the choice between days of month and of week."""

    values: frozenset[int]
    is_any: bool


@dataclass(frozen=True, slots=True)
class Every:
    """Fires an interval (whole seconds, nanoseconds, at least one) after the time it is asked about."""

    interval: int

    def next_after(self, at: int) -> int | None:
        """The next time after `at`, on a whole second."""
        return at - at % SECOND + self.interval


@dataclass(frozen=True, slots=True)
class Calendar:
    """Fires at matching minutes of a time zone's clock."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: _Field
    months: frozenset[int]
    weekdays: _Field
    zone: tzinfo

    def next_after(self, at: int) -> int | None:
        """The next time after `at` (nanoseconds since the epoch); None if there is none within five years."""
        after = datetime.fromtimestamp(at // SECOND, UTC)
        local = after.astimezone(self.zone)
        day = local.date()
        last_year = day.year + YEARS_AHEAD
        while day.year <= last_year:
            if day.month not in self.months:
                day = _next_month(day)
                continue
            if self._day_matches(day):
                found = self._first_on(day, after)
                if found is not None:
                    return int(found.timestamp()) * SECOND
            day += timedelta(days=1)
        return None

    def _day_matches(self, day: date) -> bool:
        in_month = day.day in self.days.values
        in_week = day.isoweekday() % 7 in self.weekdays.values
        if self.days.is_any or self.weekdays.is_any:
            return in_month and in_week
        return in_month or in_week

    def _first_on(self, day: date, after: datetime) -> datetime | None:
        found: datetime | None = None
        for hour in self.hours:
            if datetime(day.year, day.month, day.day, hour, 59, fold=1, tzinfo=self.zone).astimezone(UTC) <= after:
                continue
            for minute in self.minutes:
                for fold in (0, 1):
                    local = datetime(day.year, day.month, day.day, hour, minute, fold=fold, tzinfo=self.zone)
                    instant = local.astimezone(UTC)
                    exists = instant.astimezone(self.zone).replace(tzinfo=None) == local.replace(tzinfo=None)
                    if exists and instant > after and (found is None or instant < found):
                        found = instant
            if found is not None and found.astimezone(self.zone).fold == 0 and not _repeats(day, self.zone):
                return found
        return found


def _repeats(day: date, zone: tzinfo) -> bool:
    """Whether an hour of that day occurs twice: then a later hour of the clock may be the earlier instant."""
    start = datetime(day.year, day.month, day.day, tzinfo=zone)
    end = start + timedelta(days=1)
    return end.astimezone(UTC) - start.astimezone(UTC) > timedelta(days=1)


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


Schedule = Every | Calendar


def parse_cron(text: str) -> Schedule:
    """A schedule from its text: ``30 * * * *``, ``@daily``, ``@every 1h30m``, each with ``CRON_TZ=Europe/Berlin`` in front if need be.

    Raises BadCronError.
    """
    zone: tzinfo = UTC
    if text.startswith(("TZ=", "CRON_TZ=")):
        setting, space, rest = text.partition(" ")
        if not space:
            raise BadCronError("nothing behind the time zone")
        zone = _zone(setting.partition("=")[2])
        text = rest.strip()
    if text.startswith("@every "):
        return Every(max(SECOND, _go_duration(text.removeprefix("@every ")) // SECOND * SECOND))
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise BadCronError(f"unknown descriptor {text}")
        text = _DESCRIPTORS[text]
    fields = text.split()
    if len(fields) != 5:
        raise BadCronError(f"five fields are wanted, {len(fields)} were given")
    minutes = _field(fields[0], 0, 59, {})
    hours = _field(fields[1], 0, 23, {})
    return Calendar(
        minutes=tuple(sorted(minutes.values)), hours=tuple(sorted(hours.values)), days=_field(fields[2], 1, 31, {}),
        months=_field(fields[3], 1, 12, _MONTHS).values, weekdays=_field(fields[4], 0, 6, _DAYS), zone=zone,
    )  # fmt: skip


def _zone(name: str) -> tzinfo:
    if name in ("", "UTC", "Local"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadCronError(f"unknown time zone {name}") from None


def _go_duration(text: str) -> int:
    """Nanoseconds of ``1h30m``, ``1.5s``, ``-2m``."""
    matched = _DURATION.fullmatch(text)
    if matched is None:
        raise BadCronError(f"{text} is no duration")
    total = 0
    for number, unit in _DURATION_PART.findall(matched[2]):
        whole, _, fraction = number.partition(".")
        total += int(whole or 0) * _UNITS[unit]
        if fraction:
            total += int(fraction) * _UNITS[unit] // 10 ** len(fraction)
    if total >= 2**63:
        raise BadCronError(f"{text} is too long")
    return -total if matched[1] == "-" else total


def _field(text: str, lowest: int, highest: int, names: Mapping[str, int]) -> _Field:
    values: set[int] = set()
    is_any = False
    for part in text.split(","):
        if not part:
            continue
        expression, *steps = part.split("/")
        if len(steps) > 1:
            raise BadCronError(f"too many slashes: {part}")
        low, *others = expression.split("-")
        step = _number(steps[0], {}) if steps else 1
        if low in ("*", "?"):
            start, end = lowest, highest
            is_any = is_any or step <= 1
        else:
            if len(others) > 1:
                raise BadCronError(f"too many hyphens: {part}")
            start = _number(low, names)
            end = _number(others[0], names) if others else start
            if steps and not others:
                end = highest  # "N/step" means from N on
        if start < lowest or end > highest or start > end or step == 0:
            raise BadCronError(f"out of range: {part}")
        values.update(range(start, end + 1, step))
    return _Field(frozenset(values), is_any)


def _number(text: str, names: Mapping[str, int]) -> int:
    named = names.get(text.lower())
    if named is not None:
        return named
    if not re.fullmatch(r"\+?[0-9]{1,18}", text):
        raise BadCronError(f"{text} is no number")
    return int(text)


def check_cron(text: str, now: int) -> None:
    """Raises ApiError INVALID_ARGUMENT for a schedule that cannot be read, or that never fires. An empty one is none at all."""
    if not text:
        return
    try:
        schedule = parse_cron(text)
    except BadCronError:
        raise invalid_argument("invalid CronSchedule.") from None
    if schedule.next_after(now) is None:
        raise invalid_argument("invalid CronSchedule, no time can be found to satisfy the schedule")


def cron_backoff(text: str, scheduled_at: int, now: int) -> int | None:
    """Nanoseconds (whole seconds, rounded up) from `now` until the schedule's next time, for a run whose time was `scheduled_at`.

    None: there is no schedule, or no next time.
    """
    if not text:
        return None
    try:
        schedule = parse_cron(text)
    except BadCronError:
        return None
    if now < scheduled_at:
        at: int | None = scheduled_at
    else:
        at = schedule.next_after(scheduled_at)
        if at is not None and at < now:
            at = _first_not_before(schedule, at, now)
    return None if at is None else -(-(at - now) // SECOND) * SECOND


def _first_not_before(schedule: Schedule, at: int, now: int) -> int | None:
    if isinstance(schedule, Every):
        return at + -(-(now - at) // schedule.interval) * schedule.interval
    return schedule.next_after(now - 1)
