"""Messages between executions are neither lost nor doubled, whichever commit fails, or when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from perdure.app import Server
from perdure.settings import ServerSettings
from perdure.store.opening import create_store
from tests.support.model_workers import history, runs, start, work
from tests.support.saboteur import Fault, Saboteur, recorded
from tests.support.waiting import until

E = EventType
LEAST = 6
"""So many commits the scenario takes however many changes go together; most often twice as many."""


@asynccontextmanager
async def serving(store: Any, partitions: int = 1) -> AsyncGenerator[Client]:
    """A server with a worker for the model workflows."""
    settings = ServerSettings(grpc_port=0, metrics_port=None, database="", partitions=partitions)
    async with Server(settings, store=store) as server:
        client = await Client.connect(server.grpc_address)
        workers = [asyncio.create_task(work(client)) for _ in range(3)]
        try:
            yield client
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def types(events: Sequence[HistoryEvent]) -> list[EventType.ValueType]:
    return [event.event_type for event in events]


async def begin(client: Client, workflow_id: str) -> None:
    await start(client, f"{workflow_id}-signaled", "patient")
    await start(client, f"{workflow_id}-canceled", "patient")
    await start(client, workflow_id, "parent")


ENDS = (
    E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
)


async def is_over(client: Client, workflow_id: str) -> bool:
    """Whether all have ended but the signaled one, and that one shows a signal (which may wait for the end of a task)."""
    for suffix in ("", "-quick", "-ended", "-asked", "-canceled"):
        events = await history(client, workflow_id + suffix)
        if not events or events[-1].event_type not in ENDS:
            return False
    return bool(await signals(client, f"{workflow_id}-signaled"))


async def signals(client: Client, workflow_id: str) -> list[HistoryEvent]:
    """To all runs."""
    histories = await runs(client, workflow_id)
    return [event for events in histories for event in events if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED]


async def check(client: Client, workflow_id: str) -> None:
    """Everything happened, once."""
    parent = types(await history(client, workflow_id))
    assert parent.count(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED) == 3
    assert parent.count(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED) == 1
    assert parent.count(E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED) == 1
    assert parent.count(E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED) == 1
    assert len(await signals(client, f"{workflow_id}-signaled")) == 1
    canceled = types(await history(client, f"{workflow_id}-canceled"))
    assert canceled.count(E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED) == 1
    ended = await history(client, f"{workflow_id}-ended")
    assert ended[-1].workflow_execution_terminated_event_attributes.reason == "by parent close policy"
    asked = types(await history(client, f"{workflow_id}-asked"))
    assert asked.count(E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED) == 1
    for child in ("quick", "ended", "asked"):
        # A child that was started twice would have taken the id over from its first run.
        events = await history(client, f"{workflow_id}-{child}")
        (first,) = [e for e in await history(client, workflow_id) if _starts(e, f"{workflow_id}-{child}")]
        run_id = first.child_workflow_execution_started_event_attributes.workflow_execution.run_id
        assert events[0].workflow_execution_started_event_attributes.first_execution_run_id == run_id


def _starts(event: HistoryEvent, workflow_id: str) -> bool:
    return event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id == workflow_id


@pytest.mark.parametrize("fault", [Fault.FAILS, Fault.UNKNOWN_HAPPENED, Fault.UNKNOWN_LOST])
@pytest.mark.parametrize("partitions", [1, 3])
async def test_any_commit_may_fail(fault: Fault, partitions: int) -> None:
    """The first one, the second one … until the scenario is over before its time has come; twice, because no two rounds are the same."""
    store = Saboteur(create_store(""))

    async def struck(client: Client, workflow_id: str, commit: int) -> bool:
        store.arm(commit, fault)
        await begin(client, workflow_id)
        await until(lambda: is_over(client, workflow_id))
        await check(client, workflow_id)
        return store.struck.is_set()

    async with serving(store, partitions) as client:
        for sweep in range(2):
            commit = 1
            while await struck(client, f"w{sweep}-{commit}", commit):
                commit += 2 if partitions > 1 else 1
            assert commit > LEAST


@pytest.mark.parametrize("commits", range(1, 2 * LEAST))
async def test_the_server_may_stop_anywhere(commits: int, tmp_path: Path) -> None:
    path = str(tmp_path / "perdure.db")
    store = Saboteur(create_store(path))
    async with serving(store) as client:
        await start(client, "w-signaled", "patient")
        await start(client, "w-canceled", "patient")
        store.arm(commits, Fault.DOWN)
        starting = asyncio.create_task(start(client, "w", "parent"))
        ending = asyncio.create_task(until(lambda: is_over(client, "w")))
        striking = asyncio.create_task(store.struck.wait())
        await asyncio.wait([striking, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, ending, striking):
            task.cancel()
        await asyncio.gather(starting, ending, striking, return_exceptions=True)
        assert store.struck.is_set() or commits > LEAST
    async with serving(create_store(path)) as client:
        await start(client, "w", "parent")
        await until(lambda: is_over(client, "w"))
        await check(client, "w")


async def test_a_signal_is_not_repeated_to_a_later_run() -> None:
    """The sender cannot record the delivery until the target has continued as new; meanwhile it delivers again and again."""
    store = Saboteur(create_store(""))
    async with serving(store) as client:
        await start(client, "w-signaled", "restless")
        await start(client, "w-canceled", "patient")
        store.refuses = lambda commit: E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED in recorded(commit)
        await start(client, "w", "parent")
        await until(lambda: continued(client, "w-signaled"))
        refusals = store.refusals
        await until(lambda: refused_again(store, refusals))
        store.refuses = lambda commit: False
        await until(lambda: is_over(client, "w"))
        await check(client, "w")


async def continued(client: Client, workflow_id: str) -> bool:
    return len(await runs(client, workflow_id)) > 1


async def refused_again(store: Saboteur, refusals: int) -> bool:
    """Whether the message has been delivered once more, and its outcome was refused again."""
    return store.refusals > refusals + 1
