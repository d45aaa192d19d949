"""Metrics in Prometheus' own eyes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure

from perdure.core import errors
from perdure.core.errors import ApiError, Code
from perdure.observability.metrics import MOST_CHILDREN, OTHER, Registry
from perdure.observability.rpc_metrics import RpcMetrics, error_type
from perdure.observability.server_metrics import ServerMetrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(registry: Registry) -> Samples:
    # Unlike Prometheus, this parser gives counters another name.
    text = registry.render().replace(" counter\n", " untyped\n")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(registry: Registry, name: str, **labels: str) -> float:
    return samples(registry)[name, frozenset(labels.items())]


def test_names_are_shown_as_they_are_given() -> None:
    registry = Registry()
    registry.counter("plain", "Help.").labels().inc()
    registry.gauge("level", "Help.", "where").labels("here").set(-1.5)
    assert registry.render() == (
        '# HELP plain Help.\n# TYPE plain counter\nplain 1\n# HELP level Help.\n# TYPE level gauge\nlevel{where="here"} -1.5\n'
    )


def test_empty_families_are_not_shown() -> None:
    registry = Registry()
    family = registry.counter("plain", "Help.", "where")
    family.labels("here")
    family.forget("here")
    assert registry.render() == ""


@given(st.text())
def test_any_label_value_survives(text: str) -> None:
    registry = Registry()
    registry.counter("plain", "Help.", "label", service_name="x").labels(text).inc()
    assert value(registry, "plain", label=text, service_name="x") == 1


@given(st.lists(st.floats(0, 5000), max_size=30))
def test_histogram_counts_what_is_at_most_its_bound(values: list[float]) -> None:
    registry = Registry()
    histogram = registry.histogram("latency", "Help.", service_name="x").labels()
    for observed in values:
        histogram.observe(observed)
    found = samples(registry)
    for (name, labels), count in found.items():
        if name == "latency_bucket":
            bound = float(dict(labels)["le"])
            assert count == sum(observed <= bound for observed in values)
    label = frozenset({("service_name", "x")})
    assert found["latency_count", label] == len(values)
    assert math.isclose(found["latency_sum", label], sum(values))


def test_gauges_are_asked_when_they_are_shown() -> None:
    registry = Registry()
    gauge = registry.gauge("size", "Help.").labels()
    sizes = iter((1, 2))
    gauge.read = lambda: next(sizes)
    other = registry.gauge("other", "Help.").labels()
    registry.before_render.append(lambda: other.inc(10))
    assert value(registry, "size") == 1
    assert samples(registry) == {("size", frozenset()): 2, ("other", frozenset()): 20}


def test_names_that_users_choose_are_bounded() -> None:
    registry = Registry()
    family = registry.counter("plain", "Help.", "namespace", "taskqueue")
    for number in range(3 * MOST_CHILDREN):
        family.labels("default", f"queue-{number}").inc()
    assert value(registry, "plain", namespace="default", taskqueue="queue-0") == 1
    assert value(registry, "plain", namespace="default", taskqueue=OTHER) == 2 * MOST_CHILDREN
    assert len(samples(registry)) == MOST_CHILDREN + 1


def test_mistakes_are_refused() -> None:
    registry = Registry()
    family = registry.counter("plain", "Help.", "label")
    with pytest.raises(ValueError, match=r"labels \('label',\)"):
        family.labels()
    with pytest.raises(ValueError, match="two metrics named plain"):
        registry.gauge("plain", "Help.")


@pytest.mark.parametrize(
    ("error", "kind", "is_ours"),
    [
        (errors.invalid_argument("x"), "InvalidArgument", False),
        (errors.not_found("x"), "NotFound", False),
        (errors.namespace_not_found("x"), "NamespaceNotFound", False),
        (errors.already_started("x", "r", "run"), "WorkflowExecutionAlreadyStarted", False),
        (errors.busy_workflow("x"), "ResourceExhausted", False),
        (
            ApiError(Code.RESOURCE_EXHAUSTED, "x", ResourceExhaustedFailure()),
            "ResourceExhausted",
            True,
        ),
        (errors.unavailable("x"), "Unavailable", True),
        (errors.unimplemented("x"), "Unimplemented", True),
        (ApiError(Code.UNKNOWN, "x"), "Unknown", True),
    ],
)
def test_errors_are_counted_by_type_and_by_whose_fault_they_are(error: ApiError, kind: str, is_ours: bool) -> None:
    registry = Registry()
    RpcMetrics(registry).operation("Op").begin("ns").failed(error)
    labels = {"service_name": "frontend", "operation": "Op", "namespace": "ns"}
    assert error_type(error) == kind
    assert value(registry, "service_error_with_type", **labels, error_type=kind) == 1
    assert (("service_errors", frozenset(labels.items())) in samples(registry)) is is_ours
    assert value(registry, "service_pending_requests", **labels) == 0


def test_commits_and_queues_have_the_official_names() -> None:
    registry = Registry()
    metrics = ServerMetrics(registry)
    metrics.committed(7, {}, [], seconds=0.003)
    metrics.commit_failed()
    metrics.approximate_backlog_count.labels("default", "q", "Workflow").set(3)
    assert value(registry, "persistence_requests", operation="Commit", service_name="history") == 2
    assert value(registry, "persistence_errors", operation="Commit", service_name="history") == 1
    assert value(registry, "perdure_commit_rows_sum") == 7
    queue = {"namespace": "default", "taskqueue": "q", "task_type": "Workflow", "service_name": "matching"}
    assert value(registry, "approximate_backlog_count", **queue) == 3
