"""The decorated tasks of this process, by identity."""

from __future__ import annotations

from typing import Any

from kapstan import identity
from kapstan.errors import DuplicateTask

_tasks: dict[str, Any] = {}


def tasks() -> dict[str, Any]:
    return dict(_tasks)


def add(task: Any) -> None:
    """Raises:
    DuplicateTask: another function has the same identity.
    """
    known = task.spec.identity
    before = _tasks.get(known)
    if before is not None and _origin(before) != _origin(task):
        raise DuplicateTask(f"{_origin(before)} and {_origin(task)} are both the task {known!r}: give one another name")
    _tasks[known] = task


def _origin(task: Any) -> str:
    return f"{identity.importable_name(task.__module__)}:{task.__qualname__}"
