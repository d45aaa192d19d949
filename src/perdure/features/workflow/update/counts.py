"""How many updates a run has, and has had."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.features.workflow.step import WorkflowStep


def in_flight(step: WorkflowStep) -> int:
    """How many updates are not completed."""
    return len(step.state.updates) + sum(update_id not in step.state.updates for update_id in step.volatile.updates)


def too_many(step: WorkflowStep) -> bool:
    """Whether the run has had so many updates that it should continue as new."""
    limits = step.limits
    threshold = math.ceil(limits.updates_total * limits.updates_suggest_continue_as_new_ratio)
    return in_flight(step) + len(step.state.completed_updates) >= threshold > 0
