"""`perdure demo` as people run it."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

SECONDS = 60.0

TOLD = (
    "A server is up at 127.0.0.1:",
    "query status   → 'waiting for approval'",
    "signal approve → 'Ada'",
    "result         → 'order 42 is shipped, approved by Ada'",
    "attempt 2; before: the card service does not answer",
    "TimerFired",
    "WorkflowExecutionSignaled",
    "WorkflowExecutionCompleted",
    "temporal workflow list --address 127.0.0.1:",
    "until you press Ctrl-C",
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_shows_an_order_and_serves_until_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["demo", "--port", "0", "--database", str(tmp_path / "demo.db")]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "perdure", *arguments, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            shown = (await process.stdout.readuntil(TOLD[-1].encode())).decode()
            process.send_signal(number)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert [line for line in TOLD if line not in shown] == []
    assert (process.returncode, errors.decode()) == (0, "")
