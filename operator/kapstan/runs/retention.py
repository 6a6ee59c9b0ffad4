"""What may go of a store, and what stays: the decisions of retention, without a store. ``sweep`` acts on them.

A run goes as a whole, and only when it has ended, long enough ago. What cannot be read or told for certain stays. Times
are Unix seconds by the store's own clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kapstan import ids
from kapstan.errors import ConfigurationError
from kapstan.ids import RunId
from kapstan.journal import History
from kapstan.ports import LeaseHolder, Listed
from kapstan.settings import Settings

DAY = 86400.0
GRACE_SECONDS = DAY
"""An object that nothing refers to is left alone for so long: somebody may be about to write the reference."""


@dataclass(frozen=True, slots=True)
class Ages:
    """After how many seconds what goes.

    Attributes:
        runs: flow runs, since their last record; values that nobody can reach, since they were written.
        keys: graves, since the run was buried; None: they stay.
        registers: results of keys, since they were written; None: they stay.
    """

    runs: float
    keys: float | None = None
    grace: float = GRACE_SECONDS
    registers: float | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Ages | None:
        """Those of the settings; None: nothing goes."""
        if not settings.retention_days:
            return None
        runs = settings.retention_days * DAY
        return cls(runs, settings.key_retention_days * DAY or None, registers=runs)

    def __post_init__(self) -> None:
        if self.grace < 0 or any(age is not None and age <= 0 for age in (self.runs, self.keys, self.registers)):
            raise ConfigurationError("ages of retention: give more than 0")

    @property
    def orphans(self) -> float:
        return max(self.runs, self.grace)


@dataclass(frozen=True, slots=True)
class Held:
    """What custom resources that exist still need: runs by id, and keys of stored parameters."""

    runs: frozenset[RunId] = frozenset()
    parameters: frozenset[str] = frozenset()


class Kept(enum.StrEnum):
    """Why something that is old enough stays; said to people."""

    OPEN = "has not ended"
    AT_WORK = "is at work"
    HELD = "has a FlowRun"
    CALLED = "was called by a run that stays"
    DEPLOYMENT = "is of a deployment; name its cluster (--cluster) to see whether its FlowRun exists"
    UNREADABLE = "cannot be read"
    UNKNOWN = "was written by an older release, which does not tell whose it is"
    CHANGED = "was begun again meanwhile"
    QUEUED = "belongs to a background run that the queue still knows"
    PARAMETERS = "may be named by a FlowRun; name the cluster (--cluster) to see"
    FOREIGN = "is nothing of ours"
    ELSEWHERE = "is a result storage in a folder that this machine does not have"


TOLD = (Kept.UNREADABLE, Kept.UNKNOWN, Kept.DEPLOYMENT, Kept.PARAMETERS, Kept.FOREIGN)
"""What a person should look at: the rest stays for a reason that passes."""


def why_kept(
    history: History,
    run_id: RunId,
    summary: Mapping[str, Any] | None,
    holder: LeaseHolder | None,
    held: Held | None,
) -> Kept | None:
    """Why a run stays whose last record is old enough; None: it may go, unless the run that called it (``caller_of``)
    stays.

    Args:
        summary: what the index tells of it.
        holder: who took its lease last.
        held: None where nobody knows which FlowRuns exist.
    """
    if history.end is None or not history.end.end.ends_run:
        return Kept.OPEN
    if holder is not None and holder.live:
        return Kept.AT_WORK
    if held is not None and run_id in held.runs:
        return Kept.HELD
    if held is None and (history.deployment or (summary or {}).get("deployment")):
        return Kept.DEPLOYMENT
    if history.caller is None and summary is None and ids.made_at(run_id) is None:
        return Kept.UNKNOWN
    return None


def caller_of(history: History, summary: Mapping[str, Any] | None) -> RunId:
    """The run that called this one, "" for none."""
    return (summary or {}).get("parent") or "" if history.caller is None else history.caller


@dataclass(frozen=True, slots=True)
class Place:
    """Whose a stored value is, by its key ``values/<owner>/<run>/<id>`` (older releases: ``values/<run>/<id>``)."""

    owner: RunId
    run_id: RunId
    older: bool

    @classmethod
    def of(cls, key: str) -> Place | None:
        """None for a key that is no value of ours."""
        parts = key.split("/")
        if len(parts) == 4 and is_run_id(parts[1]) and is_run_id(parts[2]):
            return cls(parts[1], parts[2], older=False)
        if len(parts) == 3 and is_run_id(parts[1]):
            return cls(parts[1], parts[1], older=True)
        return None

    @property
    def tells_owner(self) -> bool:
        """Whether the key names every run that may need it: an id that older releases derived may be that of a task run
        of any flow run."""
        return not self.older or ids.made_at(self.owner) is not None


def is_run_id(text: str) -> bool:
    try:
        return len(text) == ids.ID_LENGTH and ids.parse(text) == text
    except ValueError:
        return False


def is_old(entry: Listed, age: float, now: float) -> bool:
    return now - entry.modified >= age
