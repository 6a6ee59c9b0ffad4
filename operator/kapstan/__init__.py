"""Kapstan: tasks and flows that run as pods and never start over.

Names are loaded when they are first used: ``import kapstan`` loads this file only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kapstan.context import tags
    from kapstan.flows import Flow, flow
    from kapstan.futures import Future, FutureList, as_completed, wait
    from kapstan.logging import get_run_logger
    from kapstan.states import State
    from kapstan.task_worker import serve
    from kapstan.tasks import Task, exponential_backoff, task, unmapped

__version__ = "0.1.0"

_HOME = {
    "Flow": "kapstan.flows",
    "Future": "kapstan.futures",
    "FutureList": "kapstan.futures",
    "State": "kapstan.states",
    "Task": "kapstan.tasks",
    "as_completed": "kapstan.futures",
    "exponential_backoff": "kapstan.tasks",
    "flow": "kapstan.flows",
    "get_run_logger": "kapstan.logging",
    "serve": "kapstan.task_worker",
    "tags": "kapstan.context",
    "task": "kapstan.tasks",
    "unmapped": "kapstan.tasks",
    "wait": "kapstan.futures",
}

__all__ = [
    "Flow",
    "Future",
    "FutureList",
    "State",
    "Task",
    "as_completed",
    "exponential_backoff",
    "flow",
    "get_run_logger",
    "serve",
    "tags",
    "task",
    "unmapped",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kapstan' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
