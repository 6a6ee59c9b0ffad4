"""Which call is this? The keys by which a resumed run finds the outcomes of its calls.

A key says: run, branch, task, inputs, and the number of this call among equal ones of the branch. A branch is one line
of execution: the body of a flow, the body of a task, and each asyncio task or thread that is started in one. Branches
are named where they are made, so that timing cannot swap two equal calls: asyncio tasks are numbered in the order in
which they are created, threads go by what they were started with. The key is also the id of the task run, and of a
background run that is submitted.
"""

from __future__ import annotations

import inspect
import os
import threading
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from kapstan.engine import canonical, forks
from kapstan.errors import UnkeyableInput
from kapstan.ids import RunId, derived_id

if TYPE_CHECKING:
    import asyncio


class Place(NamedTuple):
    """Where a call stands.

    Attributes:
        key: of the call.
        content: digest of its inputs.
        position: branch, task, and how many calls of this task the branch made before: the same for a call that has
            other inputs than it had when the run was first executed.
    """

    key: RunId
    content: str
    position: str


class Branch:
    """One line of execution of a run. Safe to share between threads.

    Args:
        root: the flow run, or the background run, whose calls these are.
        path: what tells this branch from the others of the run; "" for the body of the root.
        task: the task run whose body this is, or is part of; None for a flow's.
        execution: stands for one execution of the root's function: a branch that outlives it makes no calls any more.

    Attributes:
        thread: the thread that executes it; calls on another one, to which the context was carried, are a branch of
            their own.
    """

    __slots__ = ("_children", "_counts", "execution", "path", "process", "root", "task", "thread")

    def __init__(self, root: RunId, path: str = "", task: RunId | None = None, execution: object = None) -> None:
        self.root = root
        self.path = path
        self.task = task
        self.execution = execution
        self.process = forks.process
        self.thread = threading.get_ident()
        self._counts: dict[tuple[str, str], int] = {}
        self._children: dict[str, int] = {}

    def place(self, identity: str, parameters: dict[str, Any], *, strict: bool = False) -> Place:
        """Where the next call of ``identity`` with these inputs stands.

        Args:
            strict: what it does must not be done twice, so each input must be told from every other.

        Raises:
            UnkeyableInput: with ``strict``; the message names the argument and the way out.
        """
        try:
            content = canonical.digest(parameters, strict=strict)
        except UnkeyableInput as error:
            raise UnkeyableInput(f"task {identity} has an effect that must not be repeated, and its {error}") from None
        with _counting:
            occurrence = self._counts.get((identity, content), 0)
            self._counts[identity, content] = occurrence + 1
            nth = self._counts.get((identity, ""), 0)
            self._counts[identity, ""] = nth + 1
        key = derived_id("memo", self.root, self.path, identity, content, str(occurrence))
        return Place(key, content, f"{self.path}|{nth}")

    def child(self, label: str) -> Branch:
        """A branch that is made in this one; those of one label are numbered."""
        with _counting:
            number = self._children.get(label, 0)
            self._children[label] = number + 1
        name = derived_id("branch", self.path, label, str(number))[-12:]
        return Branch(self.root, name, self.task, self.execution)


current: ContextVar[Branch | None] = ContextVar("kapstan_branch", default=None)


def here() -> Branch | None:
    """The branch of this code; None where it belongs to no run, which is also true of a forked process."""
    branch = current.get()
    if branch is None or branch.process is not forks.process:
        return None
    thread = threading.get_ident()
    if branch.thread == thread:
        return branch
    branch = branch.child(_entry(inspect.currentframe()))
    current.set(branch)
    return branch


def _entry(frame: FrameType | None) -> str:
    """What a thread was started with: the first function of its stack that is not of the standard library's, and its
    arguments."""
    outermost: FrameType | None = None
    walked = frame
    while walked is not None:
        module = str(walked.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _MACHINERY:
            outermost = walked
        walked = walked.f_back
    if outermost is None:
        return "thread"
    code = outermost.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    given = {name: outermost.f_locals[name] for name in code.co_varnames[:count] if name in outermost.f_locals}
    try:
        return f"thread {code.co_qualname} {canonical.digest(given)}"
    except Exception:  # noqa: BLE001  (arguments that have no key)
        return f"thread {code.co_qualname}"


_MACHINERY = frozenset({"threading", "concurrent", "asyncio", "contextvars", "kapstan"})


# ---------------------------------------------------------------------------------------------- asyncio tasks


class _Numbering:
    """A task factory that gives each asyncio task which is created in a branch one of its own."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        branch = current.get()
        if branch is None or kwargs.get("context") is not None:
            return self._make(loop, coro, kwargs)
        context = copy_context()
        context.run(current.set, branch.child(f"task {getattr(coro, '__qualname__', type(coro).__qualname__)}"))
        return context.run(self._make, loop, coro, kwargs)  # a task runs in a copy of the context that it is made in

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, kwargs: dict[str, Any]) -> Any:
        if self._before is not None:
            return self._before(loop, coro, **kwargs)
        import asyncio

        return asyncio.Task(coro, loop=loop, **kwargs)


def number_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """From now on asyncio tasks of ``loop`` that are created in a run are branches of it."""
    factory = loop.get_task_factory()
    if not isinstance(factory, _Numbering):
        loop.set_task_factory(_Numbering(factory))


# ---------------------------------------------------------------------------------------------- the count of calls

_counting = threading.Lock()
"""Held while a branch counts a call, for a moment: one lock for all, since one for each run would cost more."""


def _after_fork() -> None:
    global _counting
    _counting = threading.Lock()  # another thread of the parent's may have held it


os.register_at_fork(after_in_child=_after_fork)
