"""The system's clock: it says when it was set."""

from __future__ import annotations

import pytest

from perdure.core.clock import HOUR, NOTICED_WITHIN, SECOND, SystemClock
from perdure.testing.virtual_time import VirtualTimeLoop, run_virtual


async def pass_time(loop: VirtualTimeLoop, seconds: float) -> None:
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed


@pytest.mark.parametrize("step", [8 * HOUR, -8 * HOUR, SECOND, -SECOND])
def test_a_clock_that_was_set_is_noticed(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_by = 0
    noticed: list[int] = []

    async def main(loop: VirtualTimeLoop) -> None:
        nonlocal set_by
        monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: loop.elapsed + set_by))
        watch = SystemClock().when_set(lambda: noticed.append(loop.elapsed))
        await pass_time(loop, 100.5)
        assert noticed == []
        set_by += step
        await pass_time(loop, NOTICED_WITHIN / SECOND)
        assert len(noticed) == 1
        await pass_time(loop, 100)
        assert len(noticed) == 1
        set_by -= step
        await pass_time(loop, NOTICED_WITHIN / SECOND)
        assert len(noticed) == 2
        watch.cancel()
        set_by += step
        await pass_time(loop, 100)
        assert len(noticed) == 2

    run_virtual(main)


def test_a_clock_that_runs_a_little_fast_is_corrected_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a thousandth, the most that NTP slews by: alarms set an hour ago would be two seconds off."""
    noticed: list[int] = []

    async def main(loop: VirtualTimeLoop) -> None:
        monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: loop.elapsed + loop.elapsed // 2000))
        SystemClock().when_set(lambda: noticed.append(loop.elapsed))
        await pass_time(loop, 3600)

    run_virtual(main)
    assert 10 <= len(noticed) <= 18
