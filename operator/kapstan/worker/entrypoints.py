"""Turns what ``kapstan task serve`` is given into tasks. Runs in the executor child, which alone imports user code.

A file is imported under the dotted name that other modules would use for it, so that its tasks have the identity under
which a web app submits them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from kapstan.errors import ConfigurationError, DuplicateTask
from kapstan.identity import import_file, unfindable
from kapstan.specs import TaskSpec


def load(entrypoints: Sequence[str], modules: Sequence[str]) -> Mapping[str, TaskSpec]:
    """The tasks that ``entrypoints`` (``module:name`` or ``file.py:name``) name, and all tasks of ``modules``.

    Raises:
        ConfigurationError: an entrypoint that cannot be found or is no task, with what the module has instead.
        Exception: whatever the import of user code raises.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: list[TaskSpec] = []
    for entrypoint in entrypoints:
        place, colon, name = entrypoint.rpartition(":")
        if not colon or not place or not name:
            raise ConfigurationError(f"{entrypoint!r}: give module:task or file.py:task, such as app/tasks.py:charge")
        found.append(_task(import_place(place), name, entrypoint))
    for place in modules:
        tasks = _tasks(import_place(place))
        if not tasks:
            raise ConfigurationError(f"--module {place}: it has no task; decorate a function with @task")
        found.extend(tasks)
    return by_identity(found)


def by_identity(specs: Iterable[TaskSpec]) -> dict[str, TaskSpec]:
    """
    Raises:
        DuplicateTask: two different tasks of one identity.
        ConfigurationError: a lambda or a local function without a name, for which nobody can submit a run.
    """
    tasks: dict[str, TaskSpec] = {}
    for spec in specs:
        if reason := unfindable(spec.identity, spec.fn):
            raise ConfigurationError(f"task {spec.name} cannot be served: {reason}")
        known = tasks.setdefault(spec.identity, spec)
        if known.fn is not spec.fn:
            raise DuplicateTask(f"two tasks are called {spec.identity!r}; give one of them another name")
    return tasks


def spec_of(value: Any) -> TaskSpec | None:
    """The spec of a decorated function (its ``spec``), None for anything else."""
    spec = getattr(value, "spec", None)
    return spec if isinstance(spec, TaskSpec) else None


def import_place(place: str, name: str = "") -> ModuleType:
    """The module called ``place``, or of the file ``place``, that one imported as ``name`` if there is a name.

    Raises:
        ConfigurationError: there is none, or it exits.
        Exception: whatever its code raises.
    """
    try:
        if place.endswith(".py"):
            return import_file(place, name=name)
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if place.endswith(".py") or error.name is None or not place.startswith(error.name):
            raise
        raise ConfigurationError(f"there is no module {place!r} on the path ({error})") from None
    except SystemExit as error:
        raise ConfigurationError(
            f"{place} calls sys.exit({error.code!r}) while it is imported: put what only a program of its own does "
            'below `if __name__ == "__main__":`'
        ) from error


def _task(module: ModuleType, name: str, entrypoint: str) -> TaskSpec:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    spec = spec_of(value)
    if spec is None:
        has = ", ".join(sorted(known for known, other in vars(module).items() if spec_of(other))) or "none"
        raise ConfigurationError(f"{entrypoint!r}: {name} is no task of {module.__name__}; its tasks: {has}")
    return spec


def _tasks(module: ModuleType) -> list[TaskSpec]:
    """The tasks that ``module`` defines, imported ones left out."""
    tasks = [spec for value in vars(module).values() if (spec := spec_of(value))]
    return [spec for spec in tasks if spec.fn.__module__ == module.__name__]
