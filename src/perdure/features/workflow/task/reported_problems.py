"""The search attribute that says what is wrong with a run's workflow tasks."""

from __future__ import annotations

from perdure.features.workflow.run.server_attributes import set_keywords
from perdure.features.workflow.state import WorkflowState

REPORTED_PROBLEMS = "TemporalReportedProblems"


def report_problems(state: WorkflowState, keywords: list[str]) -> None:
    """Let the run be found by what is wrong with it; nothing: it is well."""
    state.reported_problems = list(keywords)
    set_keywords(state, REPORTED_PROBLEMS, keywords)
