"""What a worker adds to its commands for people to read is found on the events that they make."""

from __future__ import annotations

import pytest
from temporalio.api.command.v1 import (
    CancelTimerCommandAttributes,
    CancelWorkflowExecutionCommandAttributes,
    Command,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    FailWorkflowExecutionCommandAttributes,
    ModifyWorkflowPropertiesCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
)
from temporalio.api.common.v1 import Memo, Payload, SearchAttributes, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType
from temporalio.api.sdk.v1 import EventGroupMarker, UserMetadata
from temporalio.api.workflowservice import v1 as service

from perdure.core.clock import MINUTE, to_duration
from tests.support.activity_calls import request_cancel, schedule
from tests.support.task_calls import complete_workflow, marker, signal
from tests.support.virtual_server import QUEUE, WORKFLOW_ID, VirtualServer, on_virtual_server

C = CommandType
WORD = Payload(metadata={"encoding": b"json/plain"}, data=b'"word"')
GROUPS = [
    EventGroupMarker(label=EventGroupMarker.Label(id="1", label=WORD)),
    EventGroupMarker(inbound_update=EventGroupMarker.InboundUpdate(inbound_update_id="update")),
]
OTHER = WorkflowExecution(workflow_id="other")
TIMER = Command(
    command_type=C.COMMAND_TYPE_START_TIMER,
    start_timer_command_attributes=StartTimerCommandAttributes(timer_id="t", start_to_fire_timeout=to_duration(MINUTE)),
)
COMMANDS = {
    "ACTIVITY_TASK_SCHEDULED": schedule("b"),
    "ACTIVITY_TASK_CANCEL_REQUESTED": request_cancel(5),
    "TIMER_STARTED": TIMER,
    "TIMER_CANCELED": Command(
        command_type=C.COMMAND_TYPE_CANCEL_TIMER, cancel_timer_command_attributes=CancelTimerCommandAttributes(timer_id="waits")
    ),
    "MARKER_RECORDED": marker(),
    "WORKFLOW_PROPERTIES_MODIFIED": Command(
        command_type=C.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
        modify_workflow_properties_command_attributes=ModifyWorkflowPropertiesCommandAttributes(upserted_memo=Memo(fields={"m": WORD})),
    ),
    "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES": Command(
        command_type=C.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        upsert_workflow_search_attributes_command_attributes=UpsertWorkflowSearchAttributesCommandAttributes(
            search_attributes=SearchAttributes(indexed_fields={"CustomKeywordField": WORD})
        ),
    ),
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": Command(
        command_type=C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
        signal_external_workflow_execution_command_attributes=SignalExternalWorkflowExecutionCommandAttributes(
            execution=OTHER, signal_name="s"
        ),
    ),
    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": Command(
        command_type=C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
        request_cancel_external_workflow_execution_command_attributes=RequestCancelExternalWorkflowExecutionCommandAttributes(
            workflow_id="other"
        ),
    ),
    "START_CHILD_WORKFLOW_EXECUTION_INITIATED": Command(
        command_type=C.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
        start_child_workflow_execution_command_attributes=StartChildWorkflowExecutionCommandAttributes(
            workflow_id="child", workflow_type=WorkflowType(name="Child"), task_queue=QUEUE
        ),
    ),
    "WORKFLOW_EXECUTION_COMPLETED": complete_workflow(),
    "WORKFLOW_EXECUTION_FAILED": Command(
        command_type=C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        fail_workflow_execution_command_attributes=FailWorkflowExecutionCommandAttributes(failure={"message": "no"}),  # pyright: ignore
    ),
    "WORKFLOW_EXECUTION_CANCELED": Command(
        command_type=C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        cancel_workflow_execution_command_attributes=CancelWorkflowExecutionCommandAttributes(),
    ),
    "WORKFLOW_EXECUTION_CONTINUED_AS_NEW": Command(
        command_type=C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=ContinueAsNewWorkflowExecutionCommandAttributes(),
    ),
}


@pytest.mark.parametrize("event_type", COMMANDS)
def test_an_event_shows_what_its_command_was_given(event_type: str) -> None:
    async def test(server: VirtualServer) -> None:
        run_id = await server.start_workflow()
        waits = Command()
        waits.CopyFrom(TIMER)
        waits.start_timer_command_attributes.timer_id = "waits"
        await server.decide(schedule("a"), waits)
        await server.activity_task()
        command = Command()
        command.CopyFrom(COMMANDS[event_type])
        command.user_metadata.CopyFrom(UserMetadata(summary=WORD))
        command.event_group_markers.extend(GROUPS)
        await signal(server)
        await server.decide(command)
        whole = service.GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=WorkflowExecution(workflow_id=WORKFLOW_ID, run_id=run_id)
        )
        events = (await server.call("GetWorkflowExecutionHistory", whole)).history.events
        [event] = [event for event in events if event.user_metadata.ByteSize()]
        assert EventType.Name(event.event_type) == f"EVENT_TYPE_{event_type}"
        assert list(event.event_group_markers) == GROUPS
        assert event.user_metadata.summary == WORD

    on_virtual_server(test, search_attributes={"CustomKeywordField": "Keyword"})
