"""What the control plane reads of flow runs and their attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from kapstan.ids import RunId
from kapstan.states import AttemptOutcome


class Doubt(NamedTuple):
    """An effect of which nobody knows whether it happened."""

    task: str
    """Identity of the task that has it."""
    key: str
    """As ``RegisterKey.text``: what a person decides on."""
    run_id: RunId
    """The task run, of this flow run or of another one, that began it."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt of a flow run ended, by its own word. ``at`` and ``until`` are Unix seconds."""

    outcome: AttemptOutcome
    at: float
    message: str = ""
    result_ref: str | None = None
    """Completed: where the result is stored."""
    until: float | None = None
    """Suspended: when it goes on by itself; None: when somebody resumes it."""
    doubt: Doubt | None = None
    """Suspended: it waits until somebody knows what became of this."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", AttemptOutcome(self.outcome))  # a word, where it was read from JSON


class AttemptRecord(NamedTuple):
    """One attempt as the run's journal tells it; without ``end`` it still runs, or was lost."""

    number: int
    started_at: float
    end: AttemptEnd | None
    retries_left: int = 0
    """Retries that the flow's own policy grants and no attempt has begun; only the journal tells."""


class RunRecords(Protocol):
    """What the control plane reads of flow runs and their attempts; synchronous, called on a thread.

    ``ended`` is a shortcut to *ended*; only ``attempts`` can say that an attempt did not end.
    """

    def ended(self, run_id: RunId) -> AttemptRecord | None:
        """The latest attempt that the index knows to have ended; None says nothing.

        Raises:
            QueueUnavailable: the index does not answer.
        """
        ...

    def attempts(self, run_id: RunId) -> list[AttemptRecord]:
        """Every attempt that began, by number, read from the journal in the store; [] if none ever began.

        Raises:
            StoreUnavailable: the store does not answer; nothing may be concluded.
        """
        ...

    def in_doubt(self, doubt: Doubt) -> bool:
        """Whether still nobody knows what became of an effect; so also where this side cannot see what is known.

        Raises:
            StoreUnavailable, StoreRefused: ask again.
        """
        ...

    def declare(self, run_id: RunId, state: Literal["Crashed", "Cancelled"], message: str) -> None:
        """End a run that could not say so itself, in its journal: a process that executes it after all is fenced and
        writes nothing more. A run that has ended stays as it is, and repeating is harmless.

        Raises:
            StoreUnavailable, StoreRefused, QueueUnavailable: repeat it.
        """
        ...
