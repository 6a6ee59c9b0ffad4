"""One flow run as people see it: made from its summary and, while it seems to run, from who holds its lease."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kapstan import ids
from kapstan.ids import RunId
from kapstan.ports import LeaseHolder
from kapstan.runs.words import LOST
from kapstan.states import StateType

_OPEN = (StateType.RUNNING, StateType.PENDING)
_SLACK = 5.0  # seconds by which a process may seem younger than the attempt that it runs


@dataclass(frozen=True, slots=True)
class FlowRunView:
    """Times are Unix seconds, ``took`` is seconds; None where it is not so far.

    Attributes:
        type: of the state, as ``StateType``.
        state: its name; ``Lost`` (type CRASHED) where its process is gone without a word.
        where: host and process of the attempt.
        why: one sentence: how it ended, or what to do about it.
        lost: it goes on with ``kapstan flow-run resume``.
    """

    id: str
    name: str
    flow: str
    type: str
    state: str
    attempt: int
    deployment: str
    parent: str
    tags: tuple[str, ...]
    created: float | None
    started: float | None
    ended: float | None
    took: float | None
    where: str
    why: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class FlowRunFilter:
    """Which runs a list shows; what is empty or None lets all pass. ``states`` holds names of states, or types in
    capitals; ``since`` and ``until`` are Unix seconds of the run's making."""

    states: frozenset[str] = field(default_factory=frozenset[str])
    flow: str = ""
    deployment: str = ""
    name: str = ""
    tag: str = ""
    parent: str = ""
    since: float | None = None
    until: float | None = None


def fits(chosen: FlowRunFilter, run: FlowRunView) -> bool:
    return (
        (not chosen.states or run.state in chosen.states or run.type in chosen.states)
        and (not chosen.flow or run.flow == chosen.flow)
        and (chosen.since is None or (run.created or 0.0) >= chosen.since)
        and (chosen.until is None or (run.created or 0.0) < chosen.until)
        and (not chosen.deployment or run.deployment == chosen.deployment)
        and (not chosen.name or chosen.name in run.name)
        and (not chosen.tag or chosen.tag in run.tags)
        and (not chosen.parent or run.parent == chosen.parent)
    )


def view(run_id: RunId, at: float | None, summary: Mapping[str, Any] | None, holder: LeaseHolder | None) -> FlowRunView:
    """Args:
    at: Unix seconds of its first summary.
    """
    if summary is None:
        summary = {"state": "", "state_name": "Unknown", "message": "its summary is gone or cannot be read"}
    lost = is_lost(summary, holder)
    kind, name, why = (
        str(summary.get("state") or ""),
        str(summary.get("state_name") or ""),
        summary.get("message") or "",
    )
    if lost:
        kind, name = StateType.CRASHED.value, LOST
        why = "its process is gone; go on with " + (
            "its FlowRun" if summary.get("deployment") else f"kapstan flow-run resume {ids.to_uuid(run_id)}"
        )
    started, ended = _number(summary.get("started")), _number(summary.get("ended"))
    took = None if started is None or lost else max(0.0, (ended or time.time()) - started)
    parent = summary.get("parent")
    return FlowRunView(
        id=str(ids.to_uuid(run_id)),
        name=str(summary.get("name") or ""),
        flow=str(summary.get("flow") or ""),
        type=kind,
        state=name,
        attempt=int(summary.get("attempt") or 0),
        deployment=str(summary.get("deployment") or ""),
        parent=str(ids.to_uuid(parent)) if parent else "",
        tags=tuple(summary.get("tags") or ()),
        created=ids.made_at(run_id) or at,
        started=started,
        ended=ended,
        took=took,
        where=f"{summary.get('host', '')}:{summary.get('pid', '')}".strip(":"),
        why=str(why).split("\n", 1)[0],
        lost=lost,
    )


def is_lost(summary: Mapping[str, Any], holder: LeaseHolder | None) -> bool:
    """Whether a run that says it runs has no process any more. What cannot be known here counts as running."""
    if summary.get("state") not in _OPEN:
        return False
    if holder is not None and holder.attempt >= int(summary.get("attempt") or 0):
        return not holder.live
    return is_here(summary) and not lives_here(summary)


def is_here(summary: Mapping[str, Any]) -> bool:
    """Whether its process is, or was, one of this machine."""
    return summary.get("host") == os.uname().nodename and isinstance(summary.get("pid"), int)


def lives_here(summary: Mapping[str, Any]) -> bool:
    """Whether the process that the summary names is alive on this machine, and is not another one of that number."""
    if summary.get("state") not in _OPEN or not is_here(summary):
        return False
    pid = summary["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # it is another user's: not ours
    began = _began(pid)
    return began is None or began <= float(summary.get("started") or 0) + _SLACK


def _began(pid: int) -> float | None:
    """Unix seconds of a process' start, None where the system does not tell (no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        if fields[0] == "Z":
            return float("inf")  # it has ended, and its parent has not looked
        return int(booted.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
