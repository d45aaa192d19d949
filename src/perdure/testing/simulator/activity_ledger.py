"""What is known of every activity: how often it was handed out, what operators did to it, and whose answers count."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse

from perdure.testing.simulator.programs import Operation, value_of

Activity = tuple[str, str, str]
"""Workflow id, run id and activity id."""
ENDS = frozenset({"RespondActivityTaskCompleted", "RespondActivityTaskCanceled"})
ANSWERS = ENDS | {"RespondActivityTaskFailed"}
PAUSES = frozenset({"PauseActivity", "PauseActivityExecution"})
UNPAUSES = frozenset({"UnpauseActivity", "UnpauseActivityExecution"})
RESETS = frozenset({"ResetActivity", "ResetActivityExecution"})
CHANGES = frozenset({"UpdateActivityOptions", "UpdateActivityExecutionOptions"})
IN_FLIGHT = 1.0
"""Seconds: what was handed out before a pause may be told of so much after it."""


@dataclass(slots=True)
class Asked:
    """How often operators asked for something to be done to activities of a workflow; whether it was done is not always known."""

    pauses: int = 0
    resets: int = 0
    changes: int = 0
    releases: int = 0


class ActivityLedger:
    """fail: takes note of a problem. Requests are counted per workflow id, because not all of them name a run and an activity."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self.asked_of: defaultdict[str, Asked] = defaultdict(Asked)
        #: Since when (the event loop's time) an activity is paused for certain.
        self._paused: dict[Activity, float] = {}
        self._releases_before: dict[str, int] = {}
        self._handouts: Counter[Activity] = Counter()
        self._attempts: Counter[tuple[Activity, int]] = Counter()
        self._activity_of_token: dict[bytes, Activity] = {}
        self._latest: dict[Activity, bytes] = {}
        self._ended: set[Activity] = set()

    def asked(self, method: str, request: Any) -> None:
        """An operator's request is on its way."""
        if method not in PAUSES | UNPAUSES | RESETS | CHANGES:
            return
        activity = _target(request)
        asked = self.asked_of[activity[0]]
        asked.pauses += method in PAUSES
        asked.resets += method in RESETS or getattr(request, "reset_attempts", False)
        asked.changes += method in CHANGES
        if method in PAUSES:
            self._releases_before[request.request_id] = asked.releases
        elif method not in CHANGES:
            asked.releases += 1
            for paused in [paused for paused in self._paused if paused[0] == activity[0]]:
                del self._paused[paused]

    def done(self, method: str, request: Any) -> None:
        """A call was answered, and not by an error."""
        if method in ANSWERS:
            self._accepted(method, request.task_token)
        elif method in PAUSES:
            activity = _target(request)
            if all(activity) and self.asked_of[activity[0]].releases == self._releases_before[request.request_id]:
                self._paused.setdefault(activity, asyncio.get_running_loop().time())

    def handed_out(self, task: PollActivityTaskQueueResponse) -> None:
        """A worker has got a task."""
        activity = (task.workflow_execution.workflow_id, task.workflow_execution.run_id, task.activity_id)
        asked = self.asked_of[activity[0]]
        self._handouts[activity] += 1
        self._attempts[activity, task.attempt] += 1
        if self._attempts[activity, task.attempt] > 1 + asked.resets:
            self._fail(
                f"attempt {task.attempt} of activity {activity} was handed out {self._attempts[activity, task.attempt]} times; {asked}"
            )
        if activity in self._ended:
            self._fail(f"activity {activity} was handed out after its end was accepted")
        if activity in self._paused and asyncio.get_running_loop().time() > self._paused[activity] + IN_FLIGHT:
            self._fail(f"attempt {task.attempt} of activity {activity} was handed out while it was paused")
        limit = value_of(task.input, Operation).attempts
        # Whoever pauses a running attempt wants another one, whether or not it was the last.
        if limit and not asked.changes and self._handouts[activity] > limit * (1 + asked.resets) + asked.pauses:
            self._fail(f"activity {activity} has {limit} attempts, and got {self._handouts[activity]}; {asked}")
        if 0 < task.retry_policy.maximum_attempts < task.attempt and not asked.changes and not asked.pauses:
            self._fail(f"activity {activity} has had its attempts, and got attempt {task.attempt}")
        self._activity_of_token[task.task_token] = activity
        self._latest[activity] = task.task_token

    def _accepted(self, method: str, token: bytes) -> None:
        activity = self._activity_of_token[token]
        if self._latest[activity] != token:
            self._fail(f"{method} was accepted for activity {activity}, which somebody else has got since")
        if method in ENDS:
            self._ended.add(activity)


def _target(request: Any) -> Activity:
    """What a request names; "" for what it does not."""
    if hasattr(request, "execution"):
        return request.execution.workflow_id, request.execution.run_id, request.id
    return request.workflow_id, request.run_id, request.activity_id
