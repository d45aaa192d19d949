"""E5, E10: the order in which tasks wait, and how much of them is kept."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.clock import MILLISECOND, SECOND, SystemClock
from perdure.core.execution import RunKey
from perdure.core.jobs import EffectJob
from perdure.matching.backlog import Backlog, QueueKey, Rate, Task
from perdure.matching.matching import Matching
from perdure.matching.pollers import NOTHING_SAID, Poller
from perdure.matching.rate_limit import RateLimit

Spec = tuple[int, str, float]

SPECS = st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 4.0])), max_size=60)


def task(number: int, priority: int = 3, key: str = "", weight: float = 1.0) -> Task:
    return Task(RunKey("n", "workflow", str(number), "run"), None, number, number, priority, key, weight)


def drained(backlog: Backlog) -> list[Task]:
    taken: list[Task] = []
    while (next_task := backlog.take()) is not None:
        taken.append(next_task)
    return taken


def filled(specs: list[Spec], bound: int = 1000) -> tuple[Backlog, list[Task]]:
    backlog = Backlog(bound)
    tasks = [task(number, *spec) for number, spec in enumerate(specs)]
    for one in tasks:
        backlog.add(one)
    return backlog, tasks


@given(SPECS)
def test_nothing_is_lost_and_urgent_tasks_come_first(specs: list[Spec]) -> None:
    backlog, tasks = filled(specs)
    taken = drained(backlog)
    assert {id(one) for one in taken} == {id(one) for one in tasks}
    assert len(taken) == len(tasks)
    assert [one.priority for one in taken] == sorted(one.priority for one in tasks)


@given(SPECS)
def test_tasks_of_one_key_keep_their_order(specs: list[Spec]) -> None:
    taken = drained(filled(specs)[0])
    for priority, key in {(one.priority, one.fairness_key) for one in taken}:
        added = [one.added_at for one in taken if (one.priority, one.fairness_key) == (priority, key)]
        assert added == sorted(added)


@given(st.integers(2, 40), st.integers(1, 10))
def test_a_flood_of_one_key_delays_the_others_little(flood: int, others: int) -> None:
    specs: list[Spec] = [(3, "flood", 1.0)] * flood + [(3, f"other-{number}", 1.0) for number in range(others)]
    taken = drained(filled(specs)[0])
    last_other = max(index for index, one in enumerate(taken) if one.fairness_key != "flood")
    # Every key has one task in the first round.
    assert last_other <= others


def test_keys_share_by_their_weights() -> None:
    specs: list[Spec] = [(3, "heavy", 3.0)] * 60 + [(3, "light", 1.0)] * 60
    shares = Counter(one.fairness_key for one in drained(filled(specs)[0])[:40])
    assert 29 <= shares["heavy"] <= 31


def test_a_key_that_was_silent_saves_up_nothing() -> None:
    backlog, _ = filled([(3, "busy", 1.0)] * 10)
    for _ in range(8):
        backlog.take()
    for number in range(3):
        backlog.add(task(100 + number, 3, "late"))
    backlog.add(task(200, 3, "busy"))
    order = [one.fairness_key for one in drained(backlog)]
    assert order.index("busy") <= 1


@given(SPECS, st.integers(1, 20))
def test_what_does_not_fit_is_given_back_and_is_not_urgent(specs: list[Spec], bound: int) -> None:
    backlog = Backlog(bound)
    spilled: list[Task] = []
    for number, spec in enumerate(specs):
        turned_away = backlog.add(task(number, *spec))
        if turned_away is not None:
            spilled.append(turned_away)
        assert len(backlog) <= bound
    kept = drained(backlog)
    assert len(kept) + len(spilled) == len(specs)
    if spilled:
        assert len(kept) == bound


def promised(number: int, added_at: int, priority: int) -> Task:
    return Task(RunKey("n", "workflow", str(number), "run"), EffectJob(0), added_at, priority=priority)


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 50), st.integers(1, 3))), max_size=150), st.integers(1, 40))
def test_counts_and_ages_are_those_of_the_tasks(inputs: list[tuple[int, int] | None], bound: int) -> None:
    """None takes a task out; one of the last that were taken comes back now and then."""
    backlog, kept, taken = Backlog(bound), list[Task](), list[Task]()
    for number, given_task in enumerate(inputs):
        if given_task is None:
            if (out := backlog.take()) is not None:
                kept.remove(out)
                taken.append(out)
        else:
            coming = taken.pop() if taken and number % 3 == 0 else promised(number, *given_task)
            kept.append(coming)
            if (spilled := backlog.add(coming)) is not None:
                kept.remove(spilled)
        assert backlog.waiting() == {
            priority: (len(times), min(times))
            for priority in (1, 2, 3)
            if (times := [one.added_at for one in kept if one.priority == priority])
        }


def test_what_has_left_is_not_remembered_for_long() -> None:
    backlog = Backlog(1000)
    backlog.add(promised(0, 0, 3))
    for number in range(1, 5000):
        backlog.add(promised(number, number, 3))
        backlog.take()
    assert len(backlog._levels[3].ages) < 100  # pyright: ignore[reportPrivateUsage]


async def test_a_scaling_hint_does_not_look_at_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    queue = Matching(clock, priority_levels=5).queue(QueueKey("n", "q", 1))
    for number in range(1000):
        queue.add(promised(number, clock.now() - SECOND, 1 + number % 1000))

    def walk(_: Backlog) -> Iterator[Task]:
        raise AssertionError("somebody walks through the backlog")

    monkeypatch.setattr(Backlog, "__iter__", walk)
    poller = Poller("worker", asyncio.get_running_loop().create_future())
    queue.wait(poller, NOTHING_SAID)
    task = poller.future.result()
    assert task is not None
    assert queue.scaling_hint(task, 0) == 1
    assert queue.backlog_age() >= SECOND
    # Whatever number a priority has, there are five levels.
    assert set(queue.added) == {1, 2, 3, 4, 5}
    assert {priority: count for priority, (count, _) in queue.backlog_by_priority().items()} == {2: 1, 3: 1, 4: 1, 5: 996}


def test_an_urgent_task_pushes_out_another() -> None:
    backlog = Backlog(2)
    assert backlog.add(task(1)) is None
    assert backlog.add(task(2)) is None
    turned_away = backlog.add(task(3, priority=1))
    assert turned_away is not None
    assert turned_away.priority == 3
    assert [one.priority for one in drained(backlog)] == [1, 3]


def test_rates_forget_after_half_a_minute() -> None:
    rate = Rate()
    for second in range(60):
        rate.note(second * SECOND)
        rate.note(second * SECOND)
    assert rate.per_second(59 * SECOND) == 2
    assert rate.per_second(74 * SECOND) == 1
    assert rate.per_second(200 * SECOND) == 0


def test_a_rate_limit_holds_a_second_worth() -> None:
    limit = RateLimit(4, 0)
    assert [limit.take(0) for _ in range(5)] == [True, True, True, True, False]
    at = limit.next_at(0)
    assert at is not None
    assert 249 * MILLISECOND < at <= 251 * MILLISECOND
    assert limit.take(at)
    limit.change(0, at)
    assert not limit.take(at + 100 * SECOND)
    assert limit.next_at(at) is None


@pytest.mark.parametrize("nonsense", [math.nan, -math.inf, -1.0, 5e-324, 1e-9])
def test_a_rate_that_is_none_lets_nothing_through(nonsense: float) -> None:
    for limit in (RateLimit(nonsense, 0), RateLimit(4, 0)):
        limit.change(nonsense, SECOND)
        assert not limit.take(2 * SECOND)
        assert limit.next_at(2 * SECOND) is None
        limit.change(math.inf, 3 * SECOND)
        assert all(limit.take(4 * SECOND) for _ in range(1000))
