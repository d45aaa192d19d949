"""Figures with their units: percentiles, tables, JSON, ratios of two runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measured number. name: equal in every run of the same kind. unit: "" for a plain number. less_is_better: None when neither is."""

    name: str
    value: float
    unit: str
    less_is_better: bool | None = True


class Report(msgspec.Struct):
    """All figures of a run. conditions: what they were measured on and with, name → text."""

    conditions: dict[str, str]
    figures: list[Figure] = []

    def add(self, name: str, value: float, unit: str, *, less_is_better: bool | None = True) -> None:
        self.figures.append(Figure(name, value, unit, less_is_better))

    def add_latencies(self, name: str, seconds: Sequence[float]) -> None:
        """Percentiles of latencies, in milliseconds."""
        for percent in (50, 90, 99):
            self.add(f"{name} p{percent}", percentile(seconds, percent) * 1000, "ms")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed (nearest rank). Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def table(report: Report) -> str:
    """The conditions, then the figures in aligned columns."""
    lines = [f"{name + ':':<12} {text}" for name, text in report.conditions.items()]
    lines.append("")
    rows = [(figure.name, number(figure.value), figure.unit) for figure in report.figures]
    return "\n".join([*lines, *_aligned(rows)])


def comparison(first: Report, second: Report, names: tuple[str, str]) -> str:
    """Both runs side by side, with second divided by first; where one lacks a figure there is a dash."""
    left = {figure.name: figure for figure in first.figures}
    right = {figure.name: figure for figure in second.figures}
    rows = [("", *names, "ratio", "")]
    for name in [*left, *(name for name in right if name not in left)]:
        a, b = left.get(name), right.get(name)
        some = a or b
        assert some is not None
        rows.append((name, number(a.value) if a else "-", number(b.value) if b else "-", _ratio(a, b), some.unit))
    return "\n".join(_aligned(rows))


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def encode(report: Report) -> str:
    """As JSON, the format that :func:`decode` reads."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def decode(text: str) -> Report:
    """Raises ValueError for anything else than a report."""
    return msgspec.json.decode(text, type=Report)


def _ratio(a: Figure | None, b: Figure | None) -> str:
    if a is None or b is None or not a.value:
        return "-"
    ratio = b.value / a.value
    if a.less_is_better is None or 0.95 < ratio < 1.05:
        return f"{ratio:.2f} ×"
    return f"{ratio:.2f} × ({'better' if (ratio < 1) == a.less_is_better else 'worse'})"


def _aligned(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Text columns: the first and the last to the left, those between to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  ".join(
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
