"""Registers everything of the workflow feature in one place."""

from __future__ import annotations

from perdure.core.call import MethodTable

# Importing a concern registers its appliers, commands and decisions.
from perdure.features.workflow import activities, closing, interaction, properties, speculative, start, task, timers, update_messages, updates
from perdure.features.workflow.effects import WorkflowEffects
from perdure.features.workflow.rpc.activities import ActivityRpc
from perdure.features.workflow.rpc.history import HistoryRpc
from perdure.features.workflow.rpc.interaction import InteractionRpc
from perdure.features.workflow.rpc.paging import HistoryPages
from perdure.features.workflow.rpc.start import StartRpc
from perdure.features.workflow.rpc.tasks import TaskRpc
from perdure.features.workflow.rpc.visibility import VisibilityRpc
from perdure.features.workflow.services import WorkflowServices

CONCERNS = (activities, closing, interaction, properties, speculative, start, task, timers, update_messages, updates)


def register(services: WorkflowServices, methods: MethodTable) -> None:
    """Give the engine its effects and the API its handlers."""
    WorkflowEffects(services).register(services.engine.effects)
    pages = HistoryPages(services.engine)
    ActivityRpc(services).register(methods)
    HistoryRpc(services, pages).register(methods)
    InteractionRpc(services).register(methods)
    StartRpc(services).register(methods)
    TaskRpc(services, pages).register(methods)
    VisibilityRpc(services).register(methods)
