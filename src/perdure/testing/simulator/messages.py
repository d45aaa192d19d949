"""Messages between workflows: each arrived once if its sender was told that it did, not at all if it was told that not, and never twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from perdure.testing.simulator.lineage import Lineage

E = EventType
Message = tuple[str, int]
"""The sender's run id, and the event of its history that sent it."""

_DELIVERED: Mapping[int, str] = {
    E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: "child_workflow_execution_started_event_attributes",
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: "external_workflow_execution_signaled_event_attributes",
    E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: "external_workflow_execution_cancel_requested_event_attributes",
}
_REFUSED: Mapping[int, str] = {
    E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: "start_child_workflow_execution_failed_event_attributes",
    E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: "signal_external_workflow_execution_failed_event_attributes",
    E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: "request_cancel_external_workflow_execution_failed_event_attributes",
}


class MessageAudit:
    """All messages of all runs.

    lineage: of all runs, with their histories. doomed: workflow ids of which runs may have been deleted; what they got and sent is not
    known.
    """

    def __init__(self, lineage: Lineage, doomed: Collection[str]) -> None:
        self._lineage = lineage
        self._doomed = doomed
        #: Of signals: the text that each carries, of its own → the messages that carry it: a run that is reset sends it again.
        self._signals: defaultdict[bytes, list[Message]] = defaultdict(list)
        self._targets: dict[Message, str] = {}
        self._outcomes: dict[Message, bool] = {}
        self._arrivals: Counter[Message | bytes] = Counter()
        #: How many further runs took a message over while it was under way, and deliver it, too.
        self._heirs: Counter[Message] = Counter()
        #: Of the messages sent, how many: for people, and to see that there are any.
        self.count = 0

    def problems(self) -> Iterator[str]:
        """What is wrong, in words."""
        for run_id in self._lineage.histories:
            for event in self._lineage.own(run_id):
                self._note_sent(run_id, event)
        for run_id in self._lineage.histories:
            self._note_inherited(run_id)
            self._note_arrived(run_id)
        self.count = len(self._targets)
        for data, messages in self._signals.items():
            yield from self._look_at(messages, self._arrivals[data])
        for message in self._targets:
            if self._type(message) != E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                yield from self._look_at([message], self._arrivals[message])

    def senders(self, data: bytes) -> int:
        """How many runs send the signal with this input, serialized."""
        return sum(1 + self._heirs[message] for message in self._signals.get(data, ()))

    def _look_at(self, messages: list[Message], arrivals: int) -> Iterator[str]:
        """messages: all that are alike."""
        target = self._targets[messages[0]]
        outcomes = {self._outcomes.get(message) for message in messages}
        most = sum(1 + self._heirs[message] for message in messages)
        is_cancel = self._type(messages[0]) == E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
        if True in outcomes and not arrivals and target not in self._doomed and not is_cancel:
            yield f"message {messages} to {target} was reported delivered, and is lost"
        if not all(self._lineage.is_whole(run_id) and self._workflow_id(run_id) not in self._doomed for run_id, _ in messages):
            return  # perhaps a run that was deleted has sent it, too: an earlier one, or one that a reset made
        if arrivals > most:
            yield f"message {messages} to {target} arrived {arrivals} times"
        elif outcomes == {False} and arrivals and most == 1:
            yield f"message {messages} to {target} arrived, though its sender was told that it did not"

    def _type(self, message: Message) -> int:
        run_id, event_id = message
        return self._lineage.histories[run_id][event_id - 1].event_type

    def _note_sent(self, run_id: str, event: HistoryEvent) -> None:
        message = (run_id, event.event_id)
        match event.event_type:
            case E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
                self._targets[message] = event.start_child_workflow_execution_initiated_event_attributes.workflow_id
            case E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                signal = event.signal_external_workflow_execution_initiated_event_attributes
                self._targets[message] = signal.workflow_execution.workflow_id
                self._signals[signal.input.SerializeToString(deterministic=True)].append(message)
            case E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                cancel = event.request_cancel_external_workflow_execution_initiated_event_attributes
                self._targets[message] = cancel.workflow_execution.workflow_id
            case _:
                if (outcome := _outcome(event)) is not None:
                    message = self._lineage.origin(run_id, outcome[0])
                    self._outcomes[message] = outcome[1] or self._outcomes.get(message, False)

    def _workflow_id(self, run_id: str) -> str:
        return self._lineage.histories[run_id][0].workflow_execution_started_event_attributes.workflow_id

    def _note_inherited(self, run_id: str) -> None:
        """A run that was made by a reset delivers what was under way at the point; but a child is started only once for all."""
        reset = self._lineage.resets.get(run_id)
        if reset is None:
            return
        copied = self._lineage.histories[run_id][: reset.first - 1]
        answered = {outcome[0] for event in copied if (outcome := _outcome(event)) is not None}
        for event in copied:
            message = self._lineage.origin(run_id, event.event_id)
            is_child = event.event_type == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
            if message in self._targets and event.event_id not in answered and not is_child:
                self._heirs[message] += 1

    def _note_arrived(self, run_id: str) -> None:
        started = self._lineage.histories[run_id][0].workflow_execution_started_event_attributes
        is_first = not started.continued_execution_run_id and run_id not in self._lineage.resets
        if started.parent_workflow_execution.run_id and is_first:
            self._arrivals[self._lineage.origin(started.parent_workflow_execution.run_id, started.parent_initiated_event_id)] += 1
        for event in self._lineage.own(run_id):
            if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                self._arrivals[event.workflow_execution_signaled_event_attributes.input.SerializeToString(deterministic=True)] += 1
            elif event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                requested = event.workflow_execution_cancel_requested_event_attributes
                if requested.external_initiated_event_id:
                    sender = requested.external_workflow_execution.run_id
                    self._arrivals[self._lineage.origin(sender, requested.external_initiated_event_id)] += 1


def _outcome(event: HistoryEvent) -> tuple[int, bool] | None:
    """The initiated event that this event answers, and whether the message was delivered."""
    for outcomes, outcome in ((_DELIVERED, True), (_REFUSED, False)):
        if event.event_type in outcomes:
            return getattr(event, outcomes[event.event_type]).initiated_event_id, outcome
    return None
