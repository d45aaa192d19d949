"""Counters, gauges and histograms in Prometheus' text format, under exactly the names they are given.

The Prometheus client library appends ``_total`` to counters, which would break the dashboards written for the official server, and takes
50 ms to import; the format is simple enough to write by hand. All values belong to the event loop's thread: there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

LATENCY_BUCKETS = tuple(
    milliseconds / 1000
    for milliseconds in (
        *(1, 2, 5, 10, 20, 50, 100, 200, 500),
        *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000),
    )
)
"""Upper bounds in seconds, those of the official server."""

COUNT_BUCKETS = tuple(float(n) for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000))
BYTE_BUCKETS = tuple(float(1024 << power) for power in range(15))

MOST_CHILDREN = 2_000
"""Of one family of counters or histograms, before names that users choose are shown as OTHER. Servers live for years, and there are workers
that have a task queue of their own with each start."""
OTHER = "__other__"
CHOSEN_BY_USERS = frozenset({"taskqueue", "workflowType", "activityType"})

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def samples(self, name: str, labels: str) -> Iterable[str]:
        yield f"{name}{_braces(labels)} {_number(self.value)}\n"


class Gauge:
    """A number that goes up and down, or that is asked for when it is shown."""

    __slots__ = ("read", "value")
    kind = "gauge"

    def __init__(self) -> None:
        self.value: float = 0
        self.read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def samples(self, name: str, labels: str) -> Iterable[str]:
        yield f"{name}{_braces(labels)} {_number(self.read() if self.read is not None else self.value)}\n"


class Histogram:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")
    kind = "histogram"

    def __init__(self, bounds: Sequence[float] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def samples(self, name: str, labels: str) -> Iterable[str]:
        seen = 0
        prefix = f"{labels}," if labels else ""
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{{prefix}le="{_number(bound)}"}} {seen}\n'
        yield f"{name}_sum{_braces(labels)} {_number(self.total)}\n"
        yield f"{name}_count{_braces(labels)} {seen}\n"


class _Child(Protocol):
    def samples(self, name: str, labels: str) -> Iterable[str]: ...


C = TypeVar("C", bound=_Child)


class Family(Generic[C]):
    """All metrics of one name, one for each combination of label values."""

    def __init__(self, name: str, help_text: str, kind: str, label_names: tuple[str, ...], constant: str, make: Callable[[], C]) -> None:
        self.name = name
        self.help_text = help_text
        self.kind = kind
        self.label_names = label_names
        self._constant = constant
        self._make = make
        self._children: dict[tuple[str, ...], C] = {}

    @property
    def all_label_names(self) -> tuple[str, ...]:
        """As they are shown, the constant one first."""
        return (("service_name",) if self._constant else ()) + self.label_names

    def labels(self, *values: str) -> C:
        """The metric with these label values, in the order of ``label_names``; made when it is asked for first.

        Keep the result where it is used often. Raises ValueError when the number of values is wrong.
        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"metric {self.name} has the labels {self.label_names}, got {values}")
            if len(self._children) >= MOST_CHILDREN and self.kind != Gauge.kind:
                values = tuple(OTHER if name in CHOSEN_BY_USERS else value for name, value in zip(self.label_names, values, strict=True))
                if values in self._children:
                    return self._children[values]
            child = self._children[values] = self._make()
        return child

    def forget(self, *values: str) -> None:
        """Drop the metric with these label values, of a thing that is gone."""
        self._children.pop(values, None)

    def render(self) -> Iterable[str]:
        if not self._children:
            return
        yield f"# HELP {self.name} {self.help_text}\n# TYPE {self.name} {self.kind}\n"
        for values, child in list(self._children.items()):
            pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(self.label_names, values, strict=True)]
            yield from child.samples(self.name, ",".join([*([self._constant] if self._constant else []), *pairs]))


class Registry:
    """Every metric of the server.

    before_render: callbacks that bring gauges up to date, called each time the metrics are shown.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}
        self.before_render: list[Callable[[], None]] = []

    @property
    def families(self) -> list[Family[Counter] | Family[Gauge] | Family[Histogram]]:
        """In the order in which they are shown."""
        return list(self._families.values())

    def counter(self, name: str, help_text: str, *label_names: str, service_name: str = "") -> Family[Counter]:
        """A new family of counters.

        service_name: the value of the constant label of that name, if any. Raises ValueError for a taken name.
        """
        return self._add(Family(name, help_text, Counter.kind, label_names, _constant(service_name), Counter))

    def gauge(self, name: str, help_text: str, *label_names: str, service_name: str = "") -> Family[Gauge]:
        """A new family of gauges; see :meth:`counter`."""
        return self._add(Family(name, help_text, Gauge.kind, label_names, _constant(service_name), Gauge))

    def histogram(
        self, name: str, help_text: str, *label_names: str, service_name: str = "", bounds: Sequence[float] = LATENCY_BUCKETS
    ) -> Family[Histogram]:
        """A new family of histograms; see :meth:`counter`. bounds: ascending upper bounds of the buckets."""
        return self._add(Family(name, help_text, Histogram.kind, label_names, _constant(service_name), lambda: Histogram(bounds)))

    F = TypeVar("F", Family[Counter], Family[Gauge], Family[Histogram])

    def _add(self, family: F) -> F:
        if family.name in self._families:
            raise ValueError(f"two metrics named {family.name}")
        self._families[family.name] = family
        return family

    def render(self) -> str:
        """All metrics in Prometheus' text format."""
        for update in self.before_render:
            update()
        return "".join(line for family in self._families.values() for line in family.render())


def _constant(service_name: str) -> str:
    return f'service_name="{_escaped(service_name)}"' if service_name else ""


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
