"""The plan of a FlowRun: what it says about the run's place in its pool, and whether the journal must be read first."""

from __future__ import annotations

from dataclasses import dataclass

from kapstan.reconcile.kinds.flow_run.actions import StartAttempt
from kapstan.reconcile.kinds.work_pool.actions import AskPlace
from kapstan.reconcile.plan import Plan


@dataclass(frozen=True, slots=True)
class RunPlan(Plan):
    """``needs_journal``: decide again with the run's journal read; nothing else is in such a plan."""

    needs_journal: bool = False

    @property
    def uses_place(self) -> bool:
        """Whether a run that lines up in its pool, or has a place there, still wants it."""
        return self.needs_journal or any(isinstance(action, AskPlace | StartAttempt) for action in self.actions)
