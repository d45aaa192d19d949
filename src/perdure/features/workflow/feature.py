"""Registers everything of the workflow feature in one place."""

from __future__ import annotations

from perdure.core.call import MethodTable
from perdure.features.namespace.removal import NamespaceRemoval
from perdure.features.task_queue.rpc import TaskQueueRpc

# Importing a concern registers its appliers, commands and decisions.
from perdure.features.workflow import timers
from perdure.features.workflow.activity import commands as activity_commands
from perdure.features.workflow.activity import control as activity_control
from perdure.features.workflow.activity import lifecycle as activities
from perdure.features.workflow.effects import WorkflowEffects
from perdure.features.workflow.kind import WORKFLOW
from perdure.features.workflow.other_runs import children, external
from perdure.features.workflow.other_runs.child_messages import ChildMessages
from perdure.features.workflow.other_runs.external_messages import ExternalMessages
from perdure.features.workflow.other_runs.messenger import Messenger
from perdure.features.workflow.refill import Refill
from perdure.features.workflow.reset import reset
from perdure.features.workflow.rpc.activities import ActivityRpc
from perdure.features.workflow.rpc.activities_by_id import ActivityByIdRpc
from perdure.features.workflow.rpc.activity_answers import ActivityAnswers
from perdure.features.workflow.rpc.activity_control import ActivityControlRpc
from perdure.features.workflow.rpc.control import ControlRpc
from perdure.features.workflow.rpc.describe import DescribeRpc
from perdure.features.workflow.rpc.history import HistoryRpc
from perdure.features.workflow.rpc.interaction import InteractionRpc
from perdure.features.workflow.rpc.multi_operation import MultiOperationRpc
from perdure.features.workflow.rpc.options import OptionsRpc
from perdure.features.workflow.rpc.paging import HistoryPages
from perdure.features.workflow.rpc.queries import QueryRpc
from perdure.features.workflow.rpc.reset import ResetRpc
from perdure.features.workflow.rpc.start import StartRpc
from perdure.features.workflow.rpc.tasks import TaskRpc
from perdure.features.workflow.rpc.updates import UpdateRpc
from perdure.features.workflow.rpc.visibility import VisibilityRpc
from perdure.features.workflow.run import builds, closing, continue_as_new, interaction, options, pause, properties, start
from perdure.features.workflow.run.deletion import Deletions
from perdure.features.workflow.services import WorkflowServices
from perdure.features.workflow.task import lifecycle as task
from perdure.features.workflow.task import problems, taking_back, timeouts
from perdure.features.workflow.update import lifecycle as updates
from perdure.features.workflow.update import messages as update_messages

CONCERNS = (
    activities,
    activity_commands,
    activity_control,
    builds,
    children,
    closing,
    continue_as_new,
    external,
    interaction,
    options,
    pause,
    problems,
    properties,
    reset,
    start,
    taking_back,
    task,
    timeouts,
    timers,
    update_messages,
    updates,
)


def register(services: WorkflowServices, methods: MethodTable, removal: NamespaceRemoval) -> None:
    """Give the engine its effects, the API its handlers, and the removal of namespaces a way to delete runs."""
    WorkflowEffects(services).register(services.engine.effects)
    messenger = Messenger(services)
    ChildMessages(messenger).register()
    ExternalMessages(messenger).register()
    deletions = Deletions(messenger)
    deletions.register()
    removal.register(WORKFLOW, deletions.delete)
    Refill(services)
    pages = HistoryPages(services.engine, services.limits.history_page)
    answers = ActivityAnswers(services)
    ActivityRpc(services, answers).register(methods)
    ActivityByIdRpc(answers).register(methods)
    ActivityControlRpc(services).register(methods)
    ControlRpc(services).register(methods)
    DescribeRpc(services).register(methods)
    HistoryRpc(services, pages).register(methods)
    InteractionRpc(services, deletions).register(methods)
    OptionsRpc(services).register(methods)
    ResetRpc(services).register(methods)
    queries = QueryRpc(services, pages)
    queries.register(methods)
    tasks = TaskRpc(services, pages, queries)
    tasks.register(methods)
    starts = StartRpc(services, tasks)
    starts.register(methods)
    MultiOperationRpc(services, starts).register(methods)
    TaskQueueRpc(services.matching, services.polling, services.limits, services.engine.effects.run).register(methods)
    UpdateRpc(services).register(methods)
    VisibilityRpc(services).register(methods)
