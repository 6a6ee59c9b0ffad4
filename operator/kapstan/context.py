"""What runs right now, here: the task run and the flow run of this thread or asyncio task.

The engine sets both; ``runtime``, ``logging`` and the public surface read them. It knows no policy and no backend: the
flow run stands here as an opaque object that only the engine and the surface above it look into.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast
from uuid import UUID

from kapstan.ids import RunId, to_uuid
from kapstan.specs import checked_tags


class TaskRun:
    """One execution of a task, as its own code sees it through ``kapstan.runtime.task_run``.

    Attributes:
        run_count: 1 for the first execution, one more for each retry.
        parameters: arguments by name; a callable makes them when somebody asks (binding costs more than the call).
        flow_run_id: the flow run that it belongs to, if any.
        log_prints: whether ``print`` becomes a log line.
        result_options: what says how its result is kept, None if nothing does.
    """

    __slots__ = (
        "_name",
        "_parameters",
        "flow_run_id",
        "log_prints",
        "result_options",
        "run_count",
        "run_id",
        "tags",
        "task_name",
    )

    def __init__(
        self,
        run_id: RunId,
        task_name: str,
        run_count: int,
        parameters: Any,
        name: str = "",
        tags: frozenset[str] = frozenset(),
        flow_run_id: RunId | None = None,
        log_prints: bool = False,
    ) -> None:
        self.run_id = run_id
        self.task_name = task_name
        self.run_count = run_count
        self._parameters = parameters
        self._name = name
        self.tags = tags
        self.flow_run_id = flow_run_id
        self.log_prints = log_prints
        self.result_options: Any = None

    @property
    def id(self) -> UUID:
        return to_uuid(self.run_id)

    @property
    def name(self) -> str:
        return self._name or f"{self.task_name}-{self.run_id[-3:]}"

    @property
    def parameters(self) -> dict[str, Any]:
        parameters: Any = self._parameters
        if callable(parameters):
            parameters = self._parameters = parameters()
        return cast("dict[str, Any]", parameters)


class TaskRunContext(NamedTuple):
    """What cache policies and ``cache_key_fn`` are told of the run whose key they make.

    Attributes:
        task: the ``Task``.
        parameters: its arguments by name, futures among them replaced by their results.
    """

    task: Any
    task_run: TaskRun
    parameters: dict[str, Any]


current_task: ContextVar[TaskRun | None] = ContextVar("kapstan_task_run", default=None)
current_flow: ContextVar[Any] = ContextVar("kapstan_flow_run", default=None)
"""The ``engine.flow_run.FlowRun`` of this thread or asyncio task, or None."""

current_tags: ContextVar[frozenset[str]] = ContextVar("kapstan_tags", default=frozenset())
"""What runs that are begun here are tagged with, beside their own tags."""


@contextmanager
def tags(*names: str) -> Generator[set[str]]:
    """Context manager: runs of tasks and flows that are begun in it have these tags, beside those of outer ones.

    Yields:
        all tags that are in force.

    Raises:
        ConfigurationError: a tag that cannot be, or too many.
    """
    together = checked_tags("tags()", [*checked_tags("tags()", names), *current_tags.get()])
    mark = current_tags.set(together)
    try:
        yield set(together)
    finally:
        current_tags.reset(mark)


forked_off = False
"""Whether this process was forked out of a run: it does not belong to the run, whose journal has one writer."""


def _after_fork() -> None:
    global forked_off
    if current_flow.get() is not None or current_task.get() is not None:
        current_flow.set(None)
        forked_off = True


os.register_at_fork(after_in_child=_after_fork)
