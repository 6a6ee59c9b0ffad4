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

from kapstan.errors import MissingContextError
from kapstan.ids import RunId, to_uuid
from kapstan.tag_checks import checked_tags


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
        "_cancelled",
        "_deadline",
        "_key",
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

    # Set by few runs, and not by the constructor, which all runs pay for.

    @property
    def key(self) -> Any:
        """The run at the register of its key (``engine.keyed.KeyedRun``), once its code has begun; None without."""
        return getattr(self, "_key", None)

    @key.setter
    def key(self, key: Any) -> None:
        self._key = key

    @property
    def deadline(self) -> float | None:
        """When its time limit is over, in Unix seconds."""
        return getattr(self, "_deadline", None)

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        flow = current_flow.get()
        return getattr(self, "_cancelled", False) or (flow is not None and flow.stopped is not None)

    @cancelled.setter
    def cancelled(self, cancelled: bool) -> None:
        self._cancelled = cancelled


class RunContext:
    """What the code of a task may ask about its run, to make its effect safe; see ``get_run_context``."""

    __slots__ = ("task_run",)

    def __init__(self, task_run: TaskRun) -> None:
        self.task_run = task_run

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this run, and of no other: 52 characters of the key of a task that has one,
        else the id of the run. Give it to the receiver of the effect."""
        return self.task_run.run_id if self.task_run.key is None else self.task_run.key.key.key

    @property
    def fencing_token(self) -> int | None:
        """A number that is greater for each further execution under this key: a receiver that refuses lower ones than
        it has seen is safe from those that come late. None for a task of class ``pure``."""
        return None if self.task_run.key is None else self.task_run.key.fencing_token

    @property
    def attempt(self) -> int:
        """1 for the first execution, one more for each retry."""
        return self.task_run.run_count

    @property
    def deadline(self) -> float | None:
        """When the time limit of the run is over, in Unix seconds; None: never."""
        return self.task_run.deadline

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to stop."""
        return self.task_run.cancelled

    def guard(self) -> None:
        """Call this right before the effect: it asks the store whether this run still holds its key. It narrows the
        time in which another could have taken over; it does not close it.

        Raises:
            Fenced: it does not (a BaseException: the code must end, and what has happened instead counts).
            StoreUnavailable: that cannot be known now.
        """
        flow = current_flow.get()
        if flow is not None:
            flow.check_stopped()
        if self.task_run.key is not None:
            self.task_run.key.guard()

    async def guard_async(self) -> None:
        """As ``guard``, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.guard)


def get_run_context() -> RunContext:
    """The context of the task run that this is called in.

    Raises:
        MissingContextError: no task runs here.
    """
    run = current_task.get()
    if run is None:
        raise MissingContextError("get_run_context() was called outside of a task run")
    return RunContext(run)


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
