"""Looks at a server that nobody touches any more: whatever it has forgotten stays undone, and that shows in the store."""

from __future__ import annotations

import asyncio

from perdure.core.execution import ChainKey, Kind, all_jobs
from perdure.core.jobs import Job
from perdure.engine.engine import Engine
from perdure.engine.loader import fold
from perdure.store.protocol import Header, Store
from perdure.testing.inspector import header_problem, sleeper_problem
from perdure.testing.simulator.auditor import Auditor

RETRIED_AFTER_SECONDS = 120.0
"""After the last fault: all that waits for another try has had it."""
STUCK_AFTER_SECONDS = 120.0
"""Workers ask all the time: what is due all this time, without anything happening to its run, has been forgotten."""


class Quiet:
    """Looks twice, some minutes apart. Problems are reported to the auditor."""

    def __init__(self, auditor: Auditor, store: Store, engine: Engine, namespace_id: str) -> None:
        self._auditor = auditor
        self._store = store
        self._engine = engine
        self._namespace_id = namespace_id

    async def watch(self, kind: str) -> None:
        """Look at all executions of a kind, of a server whose store and network do not fail."""
        await asyncio.sleep(RETRIED_AFTER_SECONDS)
        before = await self._look(kind)
        await asyncio.sleep(STUCK_AFTER_SECONDS)
        for where, due in (await self._look(kind)).items():
            if stuck := due & before.get(where, set()):
                self._auditor.fail(f"{where}: {min(stuck, key=repr)} is due for minutes, and nobody does it")

    async def _look(self, kind: str) -> dict[str, set[Job]]:
        """What is due now, by run and the length of its journal."""
        due: dict[str, set[Job]] = {}
        for header in await self._store.list_headers(self._namespace_id, kind):
            sequence, jobs = await self._jobs(self._engine.kinds[kind], header)
            where = f"{header.business_id}/{header.run_id} at {sequence}"
            now = self._engine.clock.now()
            due[where] = {job for job in jobs if job.at <= now}
            if not self._is_in_memory(header) and (problem := header_problem(header, jobs) or sleeper_problem(header, jobs, now)):
                self._auditor.fail(f"{where} is not in memory: {problem}")
        return due

    async def _jobs(self, kind: Kind[object, object], header: Header) -> tuple[int, set[Job]]:
        state, sequence = kind.new_state(), 0
        for row in await self._store.read_journal(header.uid):
            fold(kind, state, row)
            sequence = row.sequence
        for side in await self._store.read_side(header.uid):
            kind.apply_side(state, side.name, side.data, lambda part: None)
        return sequence, set(all_jobs(kind, state))

    def _is_in_memory(self, header: Header) -> bool:
        """Or about to be, or about to be written."""
        key = ChainKey(header.namespace_id, header.kind, header.business_id)
        cache = self._engine.partition_of(key).cache
        chain = cache.chains.get(key)
        return key in cache.settling or (chain is not None and header.run_id in chain.runs)
