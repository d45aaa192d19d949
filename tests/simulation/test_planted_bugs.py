"""The simulator is worth its time only if it finds bugs: here are some, and it has to find each within a few seeds.

Each is planted by replacing one small thing of the real server, and is a mistake that somebody could make.

Some mistakes do (next to) no harm, and so cannot be found, because the design does not depend on what they break: an effect that runs
before its commit (a task is handed out only by a later commit of its own, and a message repeated after the failure has the same id), a
commit that happened and is taken for a failed one (memory is loaded again from the journal), an outcome that was asked for too early (a
journal row or a current run that is there already fails the next commit), a lost execution that is not loaded again (if its header has a
time to wake up, that leads back to it; if it is only ready, nothing does before a restart, and that is planted here), an activity that is
reset or unpaused and keeps its stamp (whoever starts it first has it, and then it is another one).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse

from perdure.core.errors import ApiError, Code
from perdure.core.execution import ChainKey
from perdure.core.jobs import EffectJob
from perdure.engine import recorder
from perdure.engine.agenda import Agenda
from perdure.engine.engine import Engine
from perdure.engine.partition import Partition
from perdure.engine.upkeep import Upkeep
from perdure.engine.writer import Writer
from perdure.features.workflow import notes
from perdure.features.workflow.jobs import DispatchSpeculativeTask
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.other_runs.external_messages import ExternalMessages
from perdure.features.workflow.other_runs.messenger import Messenger
from perdure.features.workflow.registry import EVENT_APPLIERS, NOTE_APPLIERS
from perdure.features.workflow.reset import reapply, reset
from perdure.features.workflow.rpc import reset as reset_rpc
from perdure.features.workflow.rpc import tasks
from perdure.features.workflow.rpc.multi_operation import MultiOperationRpc
from perdure.features.workflow.run import closing, new_run
from perdure.store.protocol import StoreError
from perdure.testing.simulator.simulation import simulate

SEEDS = 200

Plant = Callable[[pytest.MonkeyPatch], None]


def reply_before_durable(patch: pytest.MonkeyPatch) -> None:
    async def transact(self: Partition, key: Any, run_id: Any, decide: Any) -> Any:
        result, _ = await self.transact_early(key, run_id, decide)
        return result

    patch.setattr(Partition, "transact", transact)


def read_before_durable(patch: pytest.MonkeyPatch) -> None:
    async def read(self: Partition, key: Any, run_id: Any) -> Any:
        chain = await self.loader.chain(key, run_id)
        run = chain.runs.get(run_id or chain.current_run_id or "")
        if run is not None:
            run.durable_event_id = run.kind.next_event_id(run.state) - 1
        return run

    patch.setattr(Partition, "read", read)


def forgotten_touch(patch: pytest.MonkeyPatch) -> None:
    applier = NOTE_APPLIERS[notes.ActivityRetryScheduled]
    patch.setitem(NOTE_APPLIERS, notes.ActivityRetryScheduled, lambda state, note, touch: applier(state, note, lambda part: None))


def applier_that_looks_at_more_than_the_record(patch: pytest.MonkeyPatch) -> None:
    applier = EVENT_APPLIERS[EventType.EVENT_TYPE_TIMER_STARTED]
    calls = iter(range(1_000_000_000))

    def started(state: Any, event: Any, touch: Any) -> None:
        applier(state, event, touch)
        state.timers[event.timer_started_event_attributes.timer_id].fire_at += next(calls)

    patch.setitem(EVENT_APPLIERS, EventType.EVENT_TYPE_TIMER_STARTED, started)


def unknown_outcome_taken_for_success(patch: pytest.MonkeyPatch) -> None:
    async def resolve(self: Writer, group: Any) -> None:
        await asyncio.sleep(0)

    patch.setattr(Writer, "_resolve", resolve)


def header_not_written(patch: pytest.MonkeyPatch) -> None:
    fill_header = recorder.fill_header

    def fill(header: Any, visible: Any, ready: bool, wake_at: int | None) -> bool:
        fill_header(header, visible, ready, wake_at)
        return False

    patch.setattr(recorder, "fill_header", fill)


def evicted_executions_not_woken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_evicted", lambda self, key, wake_at: None)  # pyright: ignore
    patch.setattr(Upkeep, "_find_due", lambda self: asyncio.sleep(0))  # pyright: ignore


def lost_executions_not_loaded_again(patch: pytest.MonkeyPatch) -> None:
    async def reload(self: Partition, key: Any, after_seconds: float = 0.0) -> None:
        """Nothing."""

    patch.setattr(Partition, "_reload", reload)


def eviction_that_failed_forgotten(patch: pytest.MonkeyPatch) -> None:
    on_failed = Partition._on_failed  # pyright: ignore[reportPrivateUsage]

    def on_failed_but(self: Partition, groups: Any) -> None:
        for group in groups:
            group.headers = {uid: header for uid, header in group.headers.items() if uid in group.executions}
        on_failed(self, groups)

    patch.setattr(Partition, "_on_failed", on_failed_but)


def refill_that_gives_up(patch: pytest.MonkeyPatch) -> None:
    go_round = Engine.go_round

    async def go_round_once(self: Engine, visit: Any, is_enough: Any) -> None:
        with suppress(StoreError, ApiError):
            await go_round(self, visit, is_enough)

    patch.setattr(Engine, "go_round", go_round_once)


def stale_answers_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tasks, "_is_for", lambda token, step: step.state.is_open and step.task.is_started)  # pyright: ignore


def signals_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    def signaled(state: Any, event: Any, touch: Any) -> None:
        state.signal_count += 1

    patch.setitem(EVENT_APPLIERS, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, signaled)


def buffered_event_lost(patch: pytest.MonkeyPatch) -> None:
    applier = NOTE_APPLIERS[notes.EventBuffered]

    def buffered(state: Any, note: Any, touch: Any) -> None:
        applier(state, note, touch)
        del state.buffer[1:]

    patch.setitem(NOTE_APPLIERS, notes.EventBuffered, buffered)


def task_in_memory_only_not_dispatched(patch: pytest.MonkeyPatch) -> None:
    schedule = Agenda.schedule

    def schedule_the_rest(self: Agenda, execution: Any, jobs: Any, group: Any) -> None:
        schedule(self, execution, [job for job in jobs if not isinstance(job, DispatchSpeculativeTask)], group)

    patch.setattr(Agenda, "schedule", schedule_the_rest)


def effect_that_raises(patch: pytest.MonkeyPatch) -> None:
    perform = Agenda._perform  # pyright: ignore[reportPrivateUsage]

    def perform_or_raise(self: Agenda, execution: Any, job: Any) -> None:
        if isinstance(job, EffectJob) and execution.sequence % 7 == 0:
            raise RuntimeError("planted")
        perform(self, execution, job)

    patch.setattr(Agenda, "_perform", perform_or_raise)


def message_taken_twice(patch: pytest.MonkeyPatch) -> None:
    deliver = Messenger.deliver

    async def deliver_again(self: Messenger, chain: Any, run_id: str, since: int, got: Any, decide: Any) -> Any:
        return await deliver(self, chain, run_id, since, lambda state: None, decide)

    patch.setattr(Messenger, "deliver", deliver_again)


def message_lost(patch: pytest.MonkeyPatch) -> None:
    deliver = ExternalMessages._deliver  # pyright: ignore[reportPrivateUsage]

    async def deliver_once(self: ExternalMessages, *arguments: Any) -> None:
        try:
            await deliver(self, *arguments)
        except ApiError as error:
            if error.code == Code.NOT_FOUND:
                raise

    patch.setattr(ExternalMessages, "_deliver", deliver_once)


def attempt_handed_out_before_durable(patch: pytest.MonkeyPatch) -> None:
    async def transact(self: Partition, key: Any, run_id: Any, decide: Any) -> Any:
        result, group = await self.transact_early(key, run_id, decide)
        if group is not None and not isinstance(result, PollActivityTaskQueueResponse):
            await group.wait()
        return result

    patch.setattr(Partition, "transact", transact)


def reset_without_what_came_after_the_plan(patch: pytest.MonkeyPatch) -> None:
    def events_after(execution: Any, event_id: int) -> list[HistoryEvent]:
        return []

    patch.setattr(reset, "_events_after", events_after)


def reset_that_forgets_what_was_buffered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reset, "History", SimpleNamespace(FromString=lambda data: History()))  # pyright: ignore


def reset_that_repeats_excluded_signals(patch: pytest.MonkeyPatch) -> None:
    def reapply_again(step: Any, event: Any, excluded: frozenset[int]) -> None:
        reapply.reapply(step, event, excluded - {reapply.SIGNALS})

    patch.setattr(reset, "reapply", reapply_again)


def reset_made_twice(patch: pytest.MonkeyPatch) -> None:
    def reset_again(current: Any, request_id: str) -> str:
        return ""

    for module in (reset, reset_rpc):
        patch.setattr(module, "reset_again", reset_again)


def start_of_a_multi_operation_not_recognized(patch: pytest.MonkeyPatch) -> None:
    decide = MultiOperationRpc._decide  # pyright: ignore[reportPrivateUsage]

    def decide_anew(self: Any, transaction: Any, start: Any, *arguments: Any, **named: Any) -> Any:
        anew = type(start)()
        anew.CopyFrom(start)
        anew.request_id = transaction.ids.uuid()
        return decide(self, transaction, anew, *arguments, **named)

    patch.setattr(MultiOperationRpc, "_decide", decide_anew)


def update_delivered_though_its_start_was_refused(patch: pytest.MonkeyPatch) -> None:
    begin = MultiOperationRpc._begin  # pyright: ignore[reportPrivateUsage]

    async def begin_and_update(self: Any, start: Any, update: Any, namespace_id: str, *arguments: Any, **named: Any) -> Any:
        def decide(transaction: Any) -> None:
            if transaction.current is not None:
                self._update(transaction, transaction.current.key, update, started=False)

        try:
            return await begin(self, start, update, namespace_id, *arguments, **named)
        except ApiError:
            with suppress(ApiError):
                await self._services.engine.transact(ChainKey(namespace_id, WORKFLOW, start.workflow_id), None, decide)
            raise

    patch.setattr(MultiOperationRpc, "_begin", begin_and_update)


def pause_of_an_activity_over_with_the_attempt(patch: pytest.MonkeyPatch) -> None:
    applier = NOTE_APPLIERS[notes.ActivityRetryScheduled]

    def scheduled(state: Any, note: Any, touch: Any) -> None:
        state.activities[note.scheduled_event_id].pause = None
        applier(state, note, touch)

    patch.setitem(NOTE_APPLIERS, notes.ActivityRetryScheduled, scheduled)


def attempts_not_counted_after_a_pause(patch: pytest.MonkeyPatch) -> None:
    def unpaused(state: Any, note: Any, touch: Any) -> None:
        applier(state, msgspec.structs.replace(note, reset_attempts=True), touch)

    applier = NOTE_APPLIERS[notes.ActivityUnpaused]
    patch.setitem(NOTE_APPLIERS, notes.ActivityUnpaused, unpaused)


def tokens_of_an_activity_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    def started(state: Any, note: Any, touch: Any) -> None:
        applier(state, note, touch)
        state.activities[note.scheduled_event_id].started_stamp = 1

    applier = NOTE_APPLIERS[notes.ActivityStarted]
    patch.setitem(NOTE_APPLIERS, notes.ActivityStarted, started)


def options_forgotten(patch: pytest.MonkeyPatch) -> None:
    def change_options(step: Any, wanted: Any, *arguments: Any) -> Any:
        return wanted

    patch.setattr(reset_rpc, "change_options", change_options)


def next_run_under_another_id(patch: pytest.MonkeyPatch) -> None:
    begin_next = new_run.begin_next

    def begin_next_elsewhere(step: Any, run_id: str, attributes: Any) -> None:
        begin_next(step, step.ids.run_id(step.now), attributes)

    patch.setattr(new_run, "begin_next", begin_next_elsewhere)


def cron_schedule_that_ends_with_a_failure(patch: pytest.MonkeyPatch) -> None:
    after_failure = closing.after_failure

    def after_failure_only(step: Any, failure: Any) -> Any:
        next_run, retry_state = after_failure(step, failure)
        is_retry = next_run is not None and next_run.initiator == new_run.Initiator.CONTINUE_AS_NEW_INITIATOR_RETRY
        return next_run if is_retry else None, retry_state

    patch.setattr(closing, "after_failure", after_failure_only)


def attempts_of_a_workflow_not_counted(patch: pytest.MonkeyPatch) -> None:
    workflow_retry = new_run.workflow_retry

    def retry_first(state: Any, failure: Any, now: int) -> Any:
        state = msgspec.structs.replace(state)
        state.started = type(state.started)()
        return workflow_retry(state, failure, now)

    patch.setattr(new_run, "workflow_retry", retry_first)


PLANTS: tuple[Plant, ...] = (
    reply_before_durable,
    read_before_durable,
    forgotten_touch,
    applier_that_looks_at_more_than_the_record,
    unknown_outcome_taken_for_success,
    header_not_written,
    evicted_executions_not_woken,
    lost_executions_not_loaded_again,
    eviction_that_failed_forgotten,
    refill_that_gives_up,
    stale_answers_accepted,
    signals_not_told_apart,
    buffered_event_lost,
    task_in_memory_only_not_dispatched,
    effect_that_raises,
    message_taken_twice,
    message_lost,
    attempt_handed_out_before_durable,
    reset_without_what_came_after_the_plan,
    reset_that_forgets_what_was_buffered,
    reset_that_repeats_excluded_signals,
    reset_made_twice,
    start_of_a_multi_operation_not_recognized,
    update_delivered_though_its_start_was_refused,
    pause_of_an_activity_over_with_the_attempt,
    attempts_not_counted_after_a_pause,
    tokens_of_an_activity_not_told_apart,
    options_forgotten,
    next_run_under_another_id,
    cron_schedule_that_ends_with_a_failure,
    attempts_of_a_workflow_not_counted,
)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_simulator_finds(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS):
        if simulate(seed).failures:
            return
    pytest.fail(f"{plant.__name__} was not found within {SEEDS} seeds")
