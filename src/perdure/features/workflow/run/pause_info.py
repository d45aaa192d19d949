"""The search attribute that says what of a run is paused: the run itself, types of its activities."""

from __future__ import annotations

from perdure.features.workflow.activity.state import Activity, ActivityPause
from perdure.features.workflow.run.server_attributes import set_keywords
from perdure.features.workflow.state import WorkflowState

PAUSE_INFO = "TemporalPauseInfo"


def pause_or_free(state: WorkflowState, activity: Activity, pause: ActivityPause | None) -> None:
    """Put a pending activity on hold, or (None) let it go on, and let the run be found by it."""
    _count_out(state, activity)
    activity.pause = pause
    if pause is not None:
        name = activity.attributes.activity_type.name
        state.paused_types[name] = state.paused_types.get(name, 0) + 1
    refresh_pause_info(state)


def forget_paused(state: WorkflowState, activity: Activity) -> None:
    """An activity has ended; the run is not found by it any more."""
    if activity.pause is not None:
        _count_out(state, activity)
        refresh_pause_info(state)


def forget_paused_activities(state: WorkflowState) -> None:
    """The run has closed, and none of its activities waits any more. That the run itself was on hold stays, as on the official server."""
    if state.paused_types:
        state.paused_types = {}
        refresh_pause_info(state)


def refresh_pause_info(state: WorkflowState) -> None:
    """Let the run be found by what of it is paused."""
    keywords: list[str] = []
    if state.pause is not None:
        keywords.append(f"Workflow:{state.workflow_id}")
        if state.pause.reason:
            keywords.append(f"Reason:{state.pause.reason}")
    set_keywords(state, PAUSE_INFO, [*keywords, *(f"property:activityType={name}" for name in sorted(state.paused_types))])


def _count_out(state: WorkflowState, activity: Activity) -> None:
    if activity.pause is None:
        return
    name = activity.attributes.activity_type.name
    state.paused_types[name] -= 1
    if not state.paused_types[name]:
        del state.paused_types[name]
