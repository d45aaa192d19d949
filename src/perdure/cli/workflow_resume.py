"""``perdure workflow resume``: reset a run to just before the step that failed, or show what that would do."""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.cli.connection import Connection, add_connection_flags, connect
from perdure.cli.parser import CommandError, Parser, add_switch
from perdure.core.lean_import import defer_sdk

if TYPE_CHECKING:
    from perdure.features.workflow.reset.resume import ResumePoint, Story

EXCLUDABLE = ("signals", "updates")


def add_resume_flags(parser: Parser) -> None:
    """The flags of ``workflow resume``."""
    parser.add_argument("-w", "--workflow-id", required=True, metavar="ID")
    parser.add_argument("-r", "--run-id", default="", metavar="ID", help="(default: the latest run)")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--activity-id", default="", metavar="ID", help="run this activity again, not the step that made the run fail")
    step.add_argument("--event-id", type=int, default=0, metavar="NUMBER", help="run the step again that began with this event")
    parser.add_argument("--reason", default="resumed from failure", metavar="TEXT", help="shown in the histories of both runs")
    parser.add_argument(
        "--exclude", action="append", default=[], choices=EXCLUDABLE, help="do not apply these again, though they came later; repeat"
    )
    add_switch(parser, "--dry-run", help="change nothing; show what would run again")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default text)")
    add_connection_flags(parser)


def resume(arguments: argparse.Namespace) -> int:
    """Run the command. Raises CommandError."""
    defer_sdk()
    from perdure.features.workflow.reset.resume import NothingToResume, as_json, find_resume_point

    with connect(arguments) as connection:
        run_id, story = _history(connection, arguments.workflow_id, arguments.run_id)
        try:
            point = find_resume_point(story, event_id=arguments.event_id, activity_id=arguments.activity_id)
        except NothingToResume as nothing:
            raise CommandError(f"workflow {arguments.workflow_id}: {nothing}") from None
        new_run_id = "" if arguments.dry_run else _reset(connection, arguments, run_id, point)
    if arguments.output == "json":
        print(json.dumps({**as_json(point, run_id), "new_run_id": new_run_id}, indent=2))
    else:
        print("\n".join(describe(point, arguments.exclude)))
        print(f"\nreset: the new run is {new_run_id}" if new_run_id else "\ndry run: nothing was changed")
    return 0


def _history(connection: Connection, workflow_id: str, run_id: str) -> tuple[str, Story]:
    """The run's id and its whole history."""
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest

    from perdure.features.workflow.reset.resume import Story

    execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    if not run_id:
        request = DescribeWorkflowExecutionRequest(namespace=connection.namespace, execution=execution)
        execution = connection.call("DescribeWorkflowExecution", request).workflow_execution_info.execution
    story = Story()
    page = GetWorkflowExecutionHistoryRequest(namespace=connection.namespace, execution=execution)
    while True:
        response = connection.call("GetWorkflowExecutionHistory", page)
        for event in response.history.events:
            story.take(event)
        if not response.next_page_token:
            return execution.run_id, story
        page.next_page_token = response.next_page_token


def _reset(connection: Connection, arguments: argparse.Namespace, run_id: str, point: ResumePoint) -> str:
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.api.enums.v1 import ResetReapplyExcludeType
    from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

    types = {
        "signals": ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL,
        "updates": ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE,
    }
    request = ResetWorkflowExecutionRequest(
        namespace=connection.namespace, workflow_execution=WorkflowExecution(workflow_id=arguments.workflow_id, run_id=run_id),
        reason=arguments.reason, workflow_task_finish_event_id=point.workflow_task_finish_event_id, request_id=str(uuid.uuid4()),
        reset_reapply_exclude_types=[types[name] for name in arguments.exclude], identity=connection.identity,
    )  # fmt: skip
    return connection.call("ResetWorkflowExecution", request).run_id


def describe(point: ResumePoint, excluded: Sequence[str]) -> list[str]:
    """The lines that tell people what a resume does."""
    from perdure.features.workflow.reset.resume import PieceKind

    failed = point.failed
    rows = [("step", "id", "event", "so far", "then")]
    rows.append((_title(failed.kind.value, failed.name), failed.id, str(failed.event_id), failed.outcome, "runs again"))
    rows += [
        (_title(step.kind.value, step.name), step.id, str(step.event_id), step.outcome, becomes.value) for step, becomes in point.again
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    what = "workflow task" if failed.kind == PieceKind.CODE else failed.kind.value
    lines.append("")
    lines.append(f"reset to event {point.workflow_task_finish_event_id}, just before the {what} failed; steps that stay done: {point.kept}")
    for name, count in (("signals", point.signals), ("updates", point.updates)):
        if count:
            lines.append(f"{name} that came later: {count}, " + ("left out" if name in excluded else "applied again"))
    return lines


def _title(kind: str, name: str) -> str:
    return f"{kind} {name}".rstrip()
