"""Resume from failure over the wire, for clients that know nothing of it: a query of the server's own, and a header of a reset.

The query ``__perdure_resume_point`` is the dry run: no worker is asked, nothing is changed. ResetWorkflowExecution with the header
``perdure-resume`` instead of an event id resets the run to the same point. Both take the same JSON object, which may say which step is to
run again: ``{"event_id": 47}`` or ``{"activity_id": "7"}``.
"""

from __future__ import annotations

import json
from typing import Any, cast

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.history.v1 import History
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import QueryWorkflowResponse

from perdure.core.errors import failed_precondition, invalid_argument
from perdure.features.workflow.reset.plan import rows_of
from perdure.features.workflow.reset.resume import NothingToResume, ResumePoint, Story, as_json, find_resume_point
from perdure.features.workflow.services import WorkflowExecution, WorkflowServices

QUERY_TYPE = "__perdure_resume_point"
HEADER = "perdure-resume"
WANTED = f'{HEADER} wants a JSON object, empty or with one of "event_id" (a number) and "activity_id" (text)'


async def resume_point(services: WorkflowServices, execution: WorkflowExecution, wanted: str) -> ResumePoint:
    """Where to reset a run, which was just read, so that what failed runs again. wanted: the JSON object.

    Raises ApiError INVALID_ARGUMENT for another text, FAILED_PRECONDITION when there is nothing to resume.
    """
    event_id, activity_id = _parse(wanted)
    story = Story()
    async for row in rows_of(services, execution, 1, execution.durable_event_id):
        for event in History.FromString(row.events).events:
            story.take(event)
    try:
        return find_resume_point(story, event_id=event_id, activity_id=activity_id)
    except NothingToResume as nothing:
        raise failed_precondition(f"cannot resume: {nothing}") from None


async def answer_query(services: WorkflowServices, execution: WorkflowExecution, query: WorkflowQuery) -> QueryWorkflowResponse:
    """What a resume would do. Raises ApiError as above."""
    arguments = query.query_args.payloads
    try:
        wanted = arguments[0].data.decode() if arguments else "{}"
    except UnicodeDecodeError:
        raise invalid_argument(WANTED) from None
    answer = as_json(await resume_point(services, execution, wanted), execution.key.run_id)
    payload = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(answer).encode())
    return QueryWorkflowResponse(query_result=Payloads(payloads=[payload]))


def _parse(text: str) -> tuple[int, str]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        raise invalid_argument(WANTED) from None
    if not isinstance(found, dict) or len(cast("dict[str, object]", found)) > 1:
        raise invalid_argument(WANTED)
    fields = cast("dict[str, object]", found)
    event_id, activity_id = fields.pop("event_id", 0), fields.pop("activity_id", "")
    if fields or not isinstance(event_id, int) or isinstance(event_id, bool) or not isinstance(activity_id, str):
        raise invalid_argument(WANTED)
    return event_id, activity_id
