"""Messages between workflows: each arrived once if its sender was told that it did, not at all if it was told that not, and never twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

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

    histories: run id → history. doomed: workflow ids of which runs may have been deleted; what they got is not known.
    """

    def __init__(self, histories: Mapping[str, Sequence[HistoryEvent]], doomed: Collection[str]) -> None:
        self._histories = histories
        self._doomed = doomed
        self._signals: dict[bytes, Message] = {}
        self._targets: dict[Message, str] = {}
        self._outcomes: dict[Message, bool] = {}
        self._arrivals: Counter[Message] = Counter()
        #: Of the messages sent, how many: for people, and to see that there are any.
        self.count = 0

    def problems(self) -> Iterator[str]:
        """What is wrong, in words."""
        for run_id, history in self._histories.items():
            for event in history:
                self._note_sent(run_id, event)
        for history in self._histories.values():
            self._note_arrived(history)
        self.count = len(self._targets)
        for message, target in self._targets.items():
            arrivals, told = self._arrivals[message], self._outcomes.get(message)
            is_cancel = self._type(message) == E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
            if arrivals > 1:
                yield f"message {message} to {target} arrived {arrivals} times"
            elif told and not arrivals and target not in self._doomed and not is_cancel:
                yield f"message {message} to {target} was reported delivered, and is lost"
            elif told is False and arrivals:
                yield f"message {message} to {target} arrived, though its sender was told that it did not"

    def _type(self, message: Message) -> int:
        run_id, event_id = message
        return self._histories[run_id][event_id - 1].event_type

    def _note_sent(self, run_id: str, event: HistoryEvent) -> None:
        message = (run_id, event.event_id)
        match event.event_type:
            case E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
                self._targets[message] = event.start_child_workflow_execution_initiated_event_attributes.workflow_id
            case E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                signal = event.signal_external_workflow_execution_initiated_event_attributes
                self._targets[message] = signal.workflow_execution.workflow_id
                # Every signal of a simulation carries a text of its own.
                self._signals[signal.input.SerializeToString(deterministic=True)] = message
            case E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                cancel = event.request_cancel_external_workflow_execution_initiated_event_attributes
                self._targets[message] = cancel.workflow_execution.workflow_id
            case event_type:
                for outcomes, outcome in ((_DELIVERED, True), (_REFUSED, False)):
                    if event_type in outcomes:
                        self._outcomes[run_id, getattr(event, outcomes[event_type]).initiated_event_id] = outcome

    def _note_arrived(self, history: Sequence[HistoryEvent]) -> None:
        started = history[0].workflow_execution_started_event_attributes
        if started.parent_workflow_execution.run_id and not started.continued_execution_run_id:
            self._arrivals[started.parent_workflow_execution.run_id, started.parent_initiated_event_id] += 1
        for event in history:
            if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                data = event.workflow_execution_signaled_event_attributes.input.SerializeToString(deterministic=True)
                if data in self._signals:
                    self._arrivals[self._signals[data]] += 1
            elif event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                requested = event.workflow_execution_cancel_requested_event_attributes
                if requested.external_initiated_event_id:
                    self._arrivals[requested.external_workflow_execution.run_id, requested.external_initiated_event_id] += 1
