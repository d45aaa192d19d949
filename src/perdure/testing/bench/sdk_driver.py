"""Load through the official SDK: ``python -m perdure.testing.bench.sdk_driver ADDRESS`` runs a worker and a client in one process."""

from __future__ import annotations

import sys
import time
import uuid
from datetime import timedelta
from itertools import pairwise
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.testing.bench.driver import Load, answer_jobs, many, run_driver

SLOTS = 500
AT_MOST = timedelta(seconds=60)
QUEUE = f"bench-{uuid.uuid4().hex[:8]}"

_activity_times: list[float] = []


@activity.defn
async def bench_activity(text: str) -> str:
    _activity_times.append(time.perf_counter())
    return text


@workflow.defn(sandboxed=False)
class BenchWorkflow:
    """So many activities, one after the other."""

    @workflow.run
    async def run(self, steps: int) -> str:
        result = ""
        for _ in range(steps):
            result = await workflow.execute_activity(bench_activity, "x", start_to_close_timeout=AT_MOST)
        return result


async def _main() -> None:
    client = await Client.connect(sys.argv[1])

    async def one(steps: int) -> None:
        await client.execute_workflow(BenchWorkflow.run, steps, id=f"bench-{uuid.uuid4().hex}", task_queue=QUEUE)

    async def do(job: dict[str, Any]) -> Load:
        if job["job"] == "workflows":
            return await many(job["count"], job["concurrency"], lambda _: one(1))
        steps: list[float] = []

        async def in_sequence(_: int) -> None:
            _activity_times.clear()
            await one(job["steps"])
            steps.extend(after - before for before, after in pairwise(_activity_times))

        load = await many(job["count"], 1, in_sequence)
        load.steps = steps
        return load

    # An activity that is started together with the workflow task that schedules it would save the server a part of its work.
    worker = Worker(
        client, task_queue=QUEUE, workflows=[BenchWorkflow], activities=[bench_activity], max_concurrent_activities=SLOTS,
        max_concurrent_workflow_tasks=SLOTS, disable_eager_activity_execution=True,
    )  # fmt: skip
    async with worker:
        await answer_jobs(do)


if __name__ == "__main__":
    run_driver(_main)
