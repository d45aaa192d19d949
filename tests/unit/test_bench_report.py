"""The arithmetic of `perdure bench`."""

from __future__ import annotations

import os

import pytest

from perdure.testing.bench import report
from perdure.testing.bench.engine_only import TRANSITIONS, EngineLoad
from perdure.testing.bench.observed import Usage, cpu_seconds, metric, resident_mib
from perdure.testing.bench.report import Figure, Report, percentile

METRICS = """\
# TYPE persistence_requests counter
persistence_requests{operation="Commit",service_name="history"} 7
persistence_requests{operation="Commit",service_name="other"} 3
persistence_requests{operation="Read",service_name="history"} 100
perdure_commit_rows_sum 40
perdure_commit_rows_count 10
"""


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5], 50, 5), ([5], 99, 5), ([4, 1, 3, 2], 50, 2), ([1, 2, 3, 4, 5], 50, 3),
     (range(1, 101), 99, 99), (range(1, 101), 100, 100), ([1, 2], 0, 1)],
)  # fmt: skip
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.345, "12.3"), (123.4, "123"), (12345.6, "12,346"), (-2.0, "-2.00")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_latencies_become_milliseconds() -> None:
    measured = Report({})
    measured.add_latencies("call", [0.001, 0.002, 0.003])
    assert [(figure.name, figure.value, figure.unit) for figure in measured.figures] == [
        ("call p50", 2.0, "ms"),
        ("call p90", 3.0, "ms"),
        ("call p99", 3.0, "ms"),
    ]


def test_a_report_survives_json() -> None:
    measured = Report({"machine": "m"}, [Figure("throughput", 10.0, "1/s", less_is_better=False)])
    assert report.decode(report.encode(measured)) == measured
    with pytest.raises(ValueError, match="Expected"):
        report.decode("[1]")


def test_a_table_shows_conditions_and_every_figure_with_its_unit() -> None:
    shown = report.table(Report({"machine": "two cores"}, [Figure("a", 1.0, "ms"), Figure("longer", 1000.0, "1/s")])).splitlines()
    assert shown == ["machine:     two cores", "", "a        1.00  ms", "longer  1,000  1/s"]


def test_a_comparison_shows_ratios_and_what_only_one_has() -> None:
    first = Report({}, [Figure("cpu", 2.0, "ms"), Figure("speed", 10.0, "1/s", less_is_better=False), Figure("only here", 1.0, "ms")])
    second = Report({}, [Figure("cpu", 4.0, "ms"), Figure("speed", 20.0, "1/s", less_is_better=False), Figure("only there", 0.0, "ms")])
    lines = [line.split() for line in report.comparison(first, second, ("A", "B")).splitlines()]
    assert lines == [
        ["A", "B", "ratio"],
        ["cpu", "2.00", "4.00", "2.00", "×", "(worse)", "ms"],
        ["speed", "10.0", "20.0", "2.00", "×", "(better)", "1/s"],
        ["only", "here", "1.00", "-", "-", "ms"],
        ["only", "there", "-", "0", "-", "ms"],
    ]


def test_metrics_are_summed_over_matching_labels() -> None:
    assert metric(METRICS, "persistence_requests", operation="Commit") == 10
    assert metric(METRICS, "persistence_requests") == 110
    assert metric(METRICS, "perdure_commit_rows_sum") == 40
    assert metric(METRICS, "nothing_like_it") is None


def test_what_cannot_be_seen_has_no_difference() -> None:
    assert Usage(3.0, 7.0, None).since(Usage(1.0, 5.0, 4.0)) == Usage(2.0, 2.0, None)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")  # noqa: PTH110
def test_a_process_can_be_observed() -> None:
    used, resident = cpu_seconds(os.getpid()), resident_mib(os.getpid())
    assert used is not None
    assert used > 0
    assert resident is not None
    assert 1 < resident < 10_000
    assert cpu_seconds(2**30) is None
    assert resident_mib(2**30) is None


def test_transitions_share_the_time_of_their_block() -> None:
    assert EngineLoad(block=10, cpu_seconds=[TRANSITIONS * 10.0]).per_transition() == [1.0]
