"""Links between executions: what requests may carry, and the links that answers give back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from temporalio.api.common.v1 import Callback, Link
from temporalio.api.enums.v1 import EventType

from perdure.core.errors import invalid_argument
from perdure.core.limits import Limits


def event_link(namespace: str, workflow_id: str, run_id: str, event_id: int, event_type: EventType.ValueType) -> Link:
    """A link to an event by its id."""
    reference = Link.WorkflowEvent.EventReference(event_id=event_id, event_type=event_type)
    return Link(workflow_event=Link.WorkflowEvent(namespace=namespace, workflow_id=workflow_id, run_id=run_id, event_ref=reference))


def request_link(namespace: str, workflow_id: str, run_id: str, request_id: str, event_type: EventType.ValueType) -> Link:
    """A link to the event that a request made: its id is not known while it is buffered."""
    reference = Link.WorkflowEvent.RequestIdReference(request_id=request_id, event_type=event_type)
    return Link(workflow_event=Link.WorkflowEvent(namespace=namespace, workflow_id=workflow_id, run_id=run_id, request_id_ref=reference))


def without_callback_links(links: Iterable[Link], callbacks: Iterable[Callback]) -> list[Link]:
    """The links that no Nexus callback brings along as well."""
    brought = [link for callback in callbacks if callback.HasField("nexus") for link in callback.links]
    return [link for link in links if link not in brought]


def check_links(links: Sequence[Link], callbacks: Iterable[Callback], limits: Limits) -> None:
    """Refuse too many links, too large ones, and those that lead nowhere. Raises ApiError INVALID_ARGUMENT."""
    everything = [*links, *(link for callback in callbacks for link in callback.links)]
    if len(everything) > limits.links_per_request:
        raise invalid_argument(f"cannot attach more than {limits.links_per_request} links per request, got {len(everything)}")
    for link in everything:
        size = link.ByteSize()
        if size > limits.link_size_bytes:
            raise invalid_argument(f"link exceeds allowed size of {limits.link_size_bytes}, got {size}")
        check = _CHECKS.get(link.WhichOneof("variant") or "")
        if check is None:
            raise invalid_argument("unsupported link variant")
        check(link)


def _check_event(link: Link) -> None:
    event = link.workflow_event
    _check_fields("workflow event", namespace=event.namespace, workflow_ID=event.workflow_id, run_ID=event.run_id)
    if event.event_ref.event_id and event.event_ref.event_type == EventType.EVENT_TYPE_UNSPECIFIED:
        raise invalid_argument("workflow event link ref cannot have an unspecified event type and a non-zero event ID")


def _check_batch(link: Link) -> None:
    if not link.batch_job.job_id:
        raise invalid_argument("batch job link must not have an empty job ID")


def _check_operation(link: Link) -> None:
    operation = link.nexus_operation
    _check_fields("nexus operation", namespace=operation.namespace, operation_ID=operation.operation_id, run_ID=operation.run_id)


def _check_activity(link: Link) -> None:
    activity = link.activity
    _check_fields("activity", namespace=activity.namespace, activity_ID=activity.activity_id, run_ID=activity.run_id)


def _check_workflow(link: Link) -> None:
    workflow = link.workflow
    _check_fields("workflow", namespace=workflow.namespace, workflow_ID=workflow.workflow_id, run_ID=workflow.run_id)


def _check_fields(what: str, **fields: str) -> None:
    for name, value in fields.items():
        if not value:
            raise invalid_argument(f"{what} link must not have an empty {name.replace('_', ' ')} field")


_CHECKS: dict[str, Callable[[Link], None]] = {
    "workflow_event": _check_event,
    "batch_job": _check_batch,
    "nexus_operation": _check_operation,
    "activity": _check_activity,
    "workflow": _check_workflow,
}
