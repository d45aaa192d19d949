"""The SDK's side of ``perdure demo``: reads a server's address from standard input, runs an order there and prints its history."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

TASK_QUEUE = "demo"
WORKFLOW_ID = "demo-order"
AT_MOST = timedelta(seconds=10)
RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=300), maximum_attempts=3)


@activity.defn
async def reserve_items(order: str) -> str:
    return f"items of {order} are reserved"


@activity.defn
async def charge_card(order: str) -> str:
    """Fails the first time, as networks do."""
    if activity.info().attempt == 1:
        raise ConnectionError("the card service does not answer")
    return f"{order} is paid"


@workflow.defn(sandboxed=False)
class DemoOrder:
    """Reserve, charge (with a retry), cool off (a timer), wait for approval (a signal); say where it stands at any time (a query)."""

    def __init__(self) -> None:
        self._status = "new"
        self._approved_by = ""

    @workflow.signal
    def approve(self, by: str) -> None:
        self._approved_by = by

    @workflow.query
    def status(self) -> str:
        return self._status

    @workflow.run
    async def run(self, order: str) -> str:
        await workflow.execute_activity(reserve_items, order, start_to_close_timeout=AT_MOST)
        self._status = "reserved"
        await workflow.execute_activity(charge_card, order, start_to_close_timeout=AT_MOST, retry_policy=RETRIES)
        self._status = "paid"
        await workflow.sleep(timedelta(milliseconds=500))
        self._status = "waiting for approval"
        await workflow.wait_condition(lambda: bool(self._approved_by))
        return f"{order} is shipped, approved by {self._approved_by}"


async def run_order(address: str) -> None:
    """Run one order on the server at the address, and print what happened."""
    client = await Client.connect(address)
    worker = Worker(
        client, task_queue=TASK_QUEUE, workflows=[DemoOrder], activities=[reserve_items, charge_card], disable_eager_activity_execution=True
    )
    async with worker:
        print(f"\nA worker polls the task queue {TASK_QUEUE!r}; a client starts the workflow {WORKFLOW_ID!r}.")
        handle = await client.start_workflow(DemoOrder.run, "order 42", id=WORKFLOW_ID, task_queue=TASK_QUEUE, request_eager_start=False)
        # How a client waits for a status that nobody tells it about.
        while (status := await handle.query(DemoOrder.status)) != "waiting for approval":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        print(f"  query status   → {status!r}")
        await handle.signal(DemoOrder.approve, "Ada")
        print("  signal approve → 'Ada'")
        print(f"  result         → {await handle.result()!r}")
        print(f"\nIts history, from which any worker could have gone on at any point:\n\n{history_table(await handle.fetch_history())}")


def history_table(history: WorkflowHistory) -> str:
    """A history as lines of aligned columns: event id, seconds since the start, what happened."""
    start = history.events[0].event_time.ToNanoseconds()
    lines = [f"  {'id':>3}  {'seconds':>8}  {'event':<30}  details"]
    for event in history.events:
        seconds = (event.event_time.ToNanoseconds() - start) / 1e9
        lines.append(f"  {event.event_id:>3}  {seconds:>8.3f}  {_name(event):<30}  {_details(event)}".rstrip())
    return "\n".join(lines)


def _name(event: HistoryEvent) -> str:
    which = event.WhichOneof("attributes") or "event"
    return "".join(word.capitalize() for word in which.removesuffix("_event_attributes").split("_"))


def _details(event: HistoryEvent) -> str:
    """What a reader wants to know of an event, of the kinds that the demo makes."""
    which = event.WhichOneof("attributes")
    attributes: Any = getattr(event, which) if which else None
    match which:
        case "workflow_execution_started_event_attributes":
            return f"{attributes.workflow_type.name}({_payloads(attributes.input)})"
        case "activity_task_scheduled_event_attributes":
            return f"{attributes.activity_type.name}({_payloads(attributes.input)})"
        case "activity_task_started_event_attributes":
            attempt = f"attempt {attributes.attempt}"
            return f"{attempt}; before: {attributes.last_failure.message}" if attributes.HasField("last_failure") else attempt
        case "activity_task_completed_event_attributes" | "workflow_execution_completed_event_attributes":
            return _payloads(attributes.result)
        case "timer_started_event_attributes":
            return f"{attributes.start_to_fire_timeout.ToMilliseconds()} ms"
        case "workflow_execution_signaled_event_attributes":
            return f"{attributes.signal_name}({_payloads(attributes.input)})"
        case _:
            return ""


def _payloads(payloads: Any) -> str:
    return ", ".join(payload.data.decode(errors="replace") for payload in payloads.payloads)


def _main() -> int:
    address = sys.stdin.readline().strip()
    if not address:  # the server did not start, and has said why
        return 1
    # The failed attempt is part of the story, and the history tells it better than the SDK's traceback.
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)
    try:
        asyncio.run(run_order(address))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's native threads may abort the interpreter while it shuts down; all is done by now.
    os._exit(code)
