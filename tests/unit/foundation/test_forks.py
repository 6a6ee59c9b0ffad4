"""A process that is forked while other threads are at work: nothing that they hold is held in the child for ever."""

from __future__ import annotations

import importlib
import os
import pkgutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import kapstan
from kapstan import context
from kapstan.ids import new_id

LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition)
Path = tuple[str, ...]


def locks() -> Iterator[Path]:
    """Module, name and attribute of every lock that stands in a module of the package, or in an object that does."""
    for found in pkgutil.walk_packages(kapstan.__path__, "kapstan."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            if isinstance(value, LOCKS):
                yield found.name, name
            elif type(value).__module__.startswith("kapstan.") and not isinstance(value, type):
                for attribute, inner in list(getattr(value, "__dict__", {}).items()):
                    if isinstance(inner, LOCKS):
                        yield found.name, name, attribute


def lock_at(path: Path) -> Any:
    value: Any = importlib.import_module(path[0])
    for name in path[1:]:
        value = getattr(value, name)
    return value


def in_child(check: Any) -> str:
    """What ``check()`` returns in a forked process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, check().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_no_lock_of_the_package_stays_held_in_a_forked_child() -> None:
    paths = sorted(set(locks()))
    assert ("kapstan.ids", "_lock") in paths
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in {id(lock): lock for lock in map(lock_at, paths)}.values():
                stack.enter_context(lock)
            held.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        stuck = in_child(lambda: " ".join(".".join(path) for path in paths if not lock_at(path).acquire(False)))
    finally:
        leave.set()
        holder.join()
    assert stuck == ""


def test_ids_of_a_forked_child_are_its_own() -> None:
    new_id()
    ids = [in_child(new_id), in_child(new_id), new_id()]
    assert len({run_id[-11:] for run_id in ids}) == 3, "the random part"


def test_a_forked_process_does_not_belong_to_the_flow_run() -> None:
    mark = context.current_flow.set("a flow run")
    try:
        assert in_child(lambda: f"{context.current_flow.get()} {context.forked_off}") == "None True"
        assert context.current_flow.get() == "a flow run"
        assert not context.forked_off
    finally:
        context.current_flow.reset(mark)
