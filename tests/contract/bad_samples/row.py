"""A row of the table, and the short ways to write one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from tests.contract.bad_samples.good import GOOD, Manifest


@dataclass(frozen=True)
class BadSample:
    """One manifest that must be refused."""

    id: str
    manifest: Manifest
    path: str
    message: str
    old: Manifest | None = None
    ours: bool = False


ABSENT: Any = object()


def changed(kind: str, path: str, value: Any) -> Manifest:
    """The good manifest with the value at ``spec.schedules.0.cron`` replaced, added, or removed (`ABSENT`)."""
    manifest = copy.deepcopy(GOOD[kind])
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = manifest
    for part in parents:
        target = target[part] if isinstance(part, int) else target.setdefault(part, {})
    if value is ABSENT:
        del target[last]
    else:
        target[last] = value
    return manifest


def refused(row: str, kind: str, change: tuple[str, Any], path: str, message: str, *, ours: bool = False) -> BadSample:
    return BadSample(row, changed(kind, *change), path, message, ours=ours)


def refused_update(
    row: str, change: tuple[str, Any], path: str, message: str, *, stored: Manifest | None = None
) -> BadSample:
    """A change of a stored FlowRun that a rule of ours refuses."""
    return BadSample(row, changed("FlowRun", *change), path, message, old=stored or GOOD["FlowRun"], ours=True)
