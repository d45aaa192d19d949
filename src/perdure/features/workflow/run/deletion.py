"""A run is deleted on request: only when it owes nothing to others any more.

| the run                           | intent          | becomes                | record                                                   |
|-----------------------------------|-----------------|------------------------|----------------------------------------------------------|
| open                              | delete          | closed, to be deleted  | WORKFLOW_EXECUTION_TERMINATED, a note if it owes         |
| closed, owes something            | delete          | to be deleted          | note                                                     |
| closed, owes nothing              | delete          | gone                   | its rows are removed                                     |
| to be deleted                     | delete          | to be deleted          | nothing                                                  |
| to be deleted, owes nothing more  | job             | gone                   | its rows are removed                                     |

What a closed run owes: its parent does not know how it ended, a parent close policy was not applied to a child. The request is durable:
what is owed is delivered also after a crash, and the run goes then.
"""

from __future__ import annotations

from perdure.core.execution import RunKey, Touch
from perdure.engine.transaction import Transaction
from perdure.features.workflow import notes
from perdure.features.workflow.jobs import DeleteRun
from perdure.features.workflow.other_runs.messenger import Messenger
from perdure.features.workflow.registry import applies_note
from perdure.features.workflow.run.closing import SERVER_IDENTITY, terminate
from perdure.features.workflow.services import step_of
from perdure.features.workflow.state import WorkflowState
from perdure.features.workflow.step import WorkflowStep

REASON = "Delete workflow execution"


class Deletions:
    """Deletes runs."""

    def __init__(self, messenger: Messenger) -> None:
        self._messenger = messenger
        self._services = messenger.services

    def register(self) -> None:
        self._messenger.register(DeleteRun, self._delete_when_free)

    async def delete(self, key: RunKey) -> bool:
        """Have a run deleted, and terminated before if it is open; the request is durable on return.

        Returns whether it is gone already; otherwise it goes as soon as it owes nothing to others. True also when there is no such run.
        Raises ApiError UNAVAILABLE when the store failed.
        """

        def decide(transaction: Transaction) -> bool:
            return transaction.run is None or _request_deletion(step_of(transaction, transaction.run))

        if not await self._services.engine.transact(key.chain, key.run_id, decide):
            return False
        await self._services.engine.partition_of(key.chain).delete(key)
        return True

    async def _delete_when_free(self, key: RunKey, state: WorkflowState, job: DeleteRun) -> None:
        while True:
            run = await self._services.engine.read(key.chain, key.run_id)
            if run is None or not _owes(run.state):
                break
            run.pins += 1
            try:
                await run.watch()
            finally:
                run.pins -= 1
        await self._services.engine.partition_of(key.chain).delete(key)


def _request_deletion(step: WorkflowStep) -> bool:
    """Whether the run can be deleted at once."""
    if step.state.is_open:
        terminate(step, REASON, SERVER_IDENTITY)
    if not _owes(step.state):
        return True
    if not step.state.is_to_be_deleted:
        step.note(notes.DeletionRequested())
    return False


def _owes(state: WorkflowState) -> bool:
    """Whether a closed run has something to do yet, its own deletion aside."""
    return any(not isinstance(job, DeleteRun) for part in state.parts() for job in part.jobs(state))


@applies_note(notes.DeletionRequested)
def _deletion_requested(state: WorkflowState, note: notes.DeletionRequested, touch: Touch) -> None:
    state.is_to_be_deleted = True
    touch(state)
