"""Lists, counters and a person's operations of background runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from kapstan.ids import RunId
from kapstan.ports.queue import RunRecord, RunState

SCANNED = 2_000
"""Records that one page reads at most."""


@dataclass(frozen=True, slots=True)
class BackgroundFilter:
    """Which runs a list shows; what is empty or None lets all pass.

    Attributes:
        task: task identity, or the part behind its ``:``.
        since, until: Unix seconds (from, before) of the submission; of the end, where ``states`` names only ends other
            than completed, since those have lists of their own.
    """

    states: frozenset[RunState] = field(default_factory=frozenset[RunState])
    task: str = ""
    queue: str = ""
    since: float | None = None
    until: float | None = None


class ListedRun(NamedTuple):
    """A run in a list. Its record comes without envelope: lists carry no payloads."""

    record: RunRecord
    submitted: float | None
    """Unix seconds; None where a list of ends shows a run whose id does not tell."""
    session: str = ""
    """Of the worker that holds it now, or that ended it."""
    due: float | None = None
    """Delayed: when it may start, in Unix seconds; None: when the runs that it waits for have ended."""
    served: bool = True
    """Ready: whether a worker is there that serves it."""
    paused: str = ""
    """Ready: ``task`` or ``queue``, whichever a person has paused."""
    limit: str = ""
    """Ready: the limit that lets no run of its task, or of its group, begin now."""
    after: tuple[RunId, ...] = ()
    """Delayed: the runs for which it waits."""


class BackgroundPage(NamedTuple):
    """``cursor`` asks for what comes after; None: that was all. ``searched_until`` (Unix seconds): the page may be
    short because its share of records was read; older runs than this were not looked at."""

    runs: list[ListedRun]
    cursor: str | None = None
    searched_until: float | None = None


class Change(Enum):
    """What became of a person's operation on a run."""

    DONE = "done"
    UNKNOWN = "unknown"
    """There is no such run."""
    REFUSED = "refused"
    """Its state does not allow it."""
    GONE = "gone"
    """Its arguments were not kept, or not so long; or its record cannot be read."""


class BackgroundRuns(Protocol):
    """Background runs of one namespace, as people ask for them. A page costs a bounded number of reads, however many
    runs there are; what was submitted more than eight days ago is found by its id only.

    Raises (every method):
        QueueUnavailable: Redis does not answer within the retry budget of the settings.
    """

    def page(self, chosen: BackgroundFilter, limit: int, cursor: str = "") -> BackgroundPage:
        """Up to ``limit`` runs, newest first, at most ``SCANNED`` records read.

        Raises:
            ConfigurationError: a cursor that no page of such a list gave.
        """
        ...

    def look(self, run_id: RunId) -> ListedRun | None:
        """One run, with its envelope; None if there is none."""
        ...

    def beginning_with(self, digits: str, limit: int = 10) -> list[RunId]:
        """Runs whose UUID begins with these hexadecimal digits, newest first; of the newest 20,000 that were submitted
        at that time."""
        ...

    def counts(self, minutes: int = 60) -> list[tuple[float, Mapping[tuple[str, str], int]]]:
        """For each of the last minutes (at most 180), oldest first: its beginning (Unix seconds), and how many runs of
        a route became ``submitted``, ``running``, ``completed``, ``failed``, ``crashed`` or ``cancelled`` in it, by
        (that word, route)."""
        ...

    def rerun(self, run_id: RunId) -> tuple[Change, RunState | None]:
        """Have a run that failed, crashed or was cancelled run once more, with the arguments it had; its state before.
        Repeating is harmless: a run that waits already is refused."""
        ...

    def restore(self, ended: RunRecord, arguments: bytes, seconds: float) -> bool:
        """Let the queue tell of an end that it has lost, for so many seconds; False: it tells of the run already.

        Lists do not show it: it is found by its id. ``arguments``: those with which a person may have it run once more;
        empty: none.
        """
        ...

    def delete(self, run_id: RunId) -> tuple[Change, RunState | None]:
        """Forget a run that has ended; its state before."""
        ...
