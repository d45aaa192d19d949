"""Who writes to a SQLite file: the event loop while the disk is quick, otherwise a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from perdure.store.writer_thread import FIRST_PENALTY_SECONDS, LONGEST_PENALTY_SECONDS, QUICK_SECONDS, STALL_SECONDS, Pace, WriterThread


@pytest.fixture
async def thread() -> AsyncIterator[WriterThread]:
    thread = WriterThread("test")
    yield thread
    thread.stop()


def stall() -> int:
    """A disk that takes its time, while the processor has nothing to do."""
    threading.Event().wait(STALL_SECONDS * 1.5)
    return threading.get_ident()


async def test_a_stall_sends_what_follows_to_the_thread(thread: WriterThread) -> None:
    here = threading.get_ident()
    assert await thread.run(threading.get_ident) == here
    assert await thread.run(stall) == here
    assert await thread.run(threading.get_ident) != here


async def test_large_work_goes_to_the_thread(thread: WriterThread) -> None:
    assert await thread.run(threading.get_ident, is_small=False) != threading.get_ident()


async def test_work_waits_for_work_that_is_under_way(thread: WriterThread) -> None:
    gate = threading.Event()
    order: list[str] = []
    begun = threading.Event()
    thread.later(lambda: (begun.set(), gate.wait(10), order.append("first")))
    begun.wait(10)
    second = asyncio.ensure_future(thread.run(lambda: order.append("second")))
    await asyncio.sleep(0)  # it cannot be done here: the thread is at work
    gate.set()
    await second
    assert order == ["first", "second"]


async def test_errors_come_back_from_both_places(thread: WriterThread) -> None:
    def fail() -> None:
        raise KeyError("no")

    for is_small in (True, False):
        with pytest.raises(KeyError):
            await thread.run(fail, is_small=is_small)


def test_a_slow_disk_is_tried_again_ever_more_rarely() -> None:
    pace, now = Pace(), 100.0
    penalties: list[float] = []
    for _ in range(10):
        assert pace.is_quick(now)
        tries = 0
        while pace.is_quick(now):
            pace.waited(QUICK_SECONDS * 4, now)
            now += QUICK_SECONDS * 4
            tries += 1
        assert tries < 10
        begun = now
        while not pace.is_quick(now):
            now += 0.1
        penalties.append(now - begun)
    assert penalties[0] == pytest.approx(FIRST_PENALTY_SECONDS, abs=0.2)
    assert penalties[-1] == pytest.approx(LONGEST_PENALTY_SECONDS, abs=0.2)
    assert [round(seconds) for seconds in penalties] == sorted(round(seconds) for seconds in penalties)


def test_a_disk_that_stays_quick_is_forgiven() -> None:
    pace = Pace()
    pace.waited(1.0, 1.0)
    assert not pace.is_quick(1.5)
    now = 2.1
    while now < 6.0:
        assert pace.is_quick(now)
        pace.waited(QUICK_SECONDS / 10, now)
        now += 0.01
    pace.waited(1.0, now + 1.0)
    assert not pace.is_quick(now + 1.0 + FIRST_PENALTY_SECONDS * 0.9)
    assert pace.is_quick(now + 1.0 + FIRST_PENALTY_SECONDS * 1.1)
