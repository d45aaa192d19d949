"""Resets: each made one run, which begins as the run it was made from, and to which everything happened again that was not to be lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType, ResetReapplyType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from perdure.store.protocol import Header
from perdure.testing.simulator.auditor import Auditor, fingerprint
from perdure.testing.simulator.lineage import Lineage, Reset
from perdure.testing.simulator.programs import value_of

E = EventType
Exclude = ResetReapplyExcludeType
SIGNALS = Exclude.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
UPDATES = Exclude.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE
EVERYTHING = frozenset(Exclude.values()) - {Exclude.RESET_REAPPLY_EXCLUDE_TYPE_UNSPECIFIED}
Again = dict[str, list[str]]
"""What happened again: signals, updates and changes of options by what tells them apart, in order."""


class ResetAudit:
    """All resets. neighbours: runs of which the second followed the first."""

    def __init__(self, auditor: Auditor, lineage: Lineage, neighbours: Sequence[tuple[Header, Header]]) -> None:
        self._auditor = auditor
        self._lineage = lineage
        self._neighbours = neighbours
        self._histories = lineage.histories

    def problems(self) -> Iterator[str]:
        """What is wrong, in words."""
        for run_id, reset in self._lineage.resets.items():
            request = self._auditor.resets.get(reset.token)
            if request is None:
                yield f"run {run_id} was made by a reset that nobody asked for: {reset}"
            else:
                yield from self._look_at(run_id, reset, request)
        for token, run_ids in self._auditor.runs_of_reset.items():
            for run_id in run_ids - self._auditor.doomed:
                reset = self._lineage.resets.get(run_id)
                if reset is None or reset.token != token:
                    yield f"reset {token} was acknowledged with run {run_id}, which is {reset}"
        yield from self._look_at_neighbours()

    def _look_at(self, run_id: str, reset: Reset, request: ResetWorkflowExecutionRequest) -> Iterator[str]:
        where = f"run {run_id}, made by reset {reset.token} of run {reset.base_run_id}"
        if reset.first != request.workflow_task_finish_event_id:
            yield f"{where}, goes its own way from event {reset.first}, not {request.workflow_task_finish_event_id}"
        if request.workflow_execution.run_id not in ("", reset.base_run_id):
            yield f"{where}, was to be made from run {request.workflow_execution.run_id}"
        base = self._histories.get(reset.base_run_id)
        if base is None:
            if reset.base_run_id not in self._auditor.doomed:
                yield f"{where}, which does not exist"
            return
        history = self._histories[run_id]
        for old, new in zip(base[: reset.first - 1], history[: reset.first - 1], strict=False):
            if fingerprint(old) != fingerprint(new):
                yield f"{where}, has another event {new.event_id}: {E.Name(new.event_type)}, not {E.Name(old.event_type)}"
                return
        wanted = self._wanted(reset, request)
        again = _tokens(history[reset.first - 1 : reset.last])
        if wanted is not None and again != wanted:
            yield f"{where}: happened again: {again}; should have: {wanted}"

    def _wanted(self, reset: Reset, request: ResetWorkflowExecutionRequest) -> Again | None:
        """What has to happen again; None when it is not known, because of deleted runs."""
        events: list[HistoryEvent] = []
        run_id, first = reset.base_run_id, reset.first
        while run_id:
            history = self._histories.get(run_id)
            if history is None:
                return None
            events.extend(history[first - 1 :])
            run_id = history[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
            first = 1
        wanted = _tokens(events)
        known = set(_tokens(self._histories[reset.base_run_id][: reset.first - 1])["updates"])
        wanted["updates"] = [update for update in dict.fromkeys(wanted["updates"]) if update not in known]
        reapply = request.reset_reapply_type
        excluded = set(request.reset_reapply_exclude_types)
        if SIGNALS in excluded or reapply == ResetReapplyType.RESET_REAPPLY_TYPE_NONE:
            wanted["signals"] = []
        if UPDATES in excluded or reapply in (ResetReapplyType.RESET_REAPPLY_TYPE_NONE, ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL):
            wanted["updates"] = []
        if excluded >= EVERYTHING:
            wanted["options"] = []
        wanted["options"] += post_reset_keys(request)
        return wanted

    def _look_at_neighbours(self) -> Iterator[str]:
        """A request knows the run that it made, as long as that is the latest."""
        for previous, header in self._neighbours:
            before, reset = self._lineage.resets.get(previous.run_id), self._lineage.resets.get(header.run_id)
            if before is not None and reset is not None and before.token == reset.token:
                yield f"reset {reset.token} made both run {previous.run_id} and run {header.run_id}"


def _tokens(events: Sequence[HistoryEvent]) -> Again:
    found: Again = {"signals": [], "updates": [], "options": option_keys(events)}
    for event in events:
        match event.event_type:
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                found["signals"].append(value_of(event.workflow_execution_signaled_event_attributes.input))
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
                found["updates"].append(event.workflow_execution_update_admitted_event_attributes.request.meta.update_id)
            case E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                found["updates"].append(event.workflow_execution_update_accepted_event_attributes.protocol_instance_id)
            case _:
                pass
    return found


def option_keys(events: Sequence[HistoryEvent]) -> list[str]:
    """The fairness keys that were set, one after the other."""
    changes = (event for event in events if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED)
    return [change.workflow_execution_options_updated_event_attributes.priority.fairness_key for change in changes]


def post_reset_keys(request: ResetWorkflowExecutionRequest) -> list[str]:
    """The fairness keys that the new run gets on top."""
    return [
        operation.update_workflow_options.workflow_execution_options.priority.fairness_key for operation in request.post_reset_operations
    ]
