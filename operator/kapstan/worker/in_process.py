"""``.submit()`` outside a flow: the background of this process, for web applications without workers of their own.

Runs go through the queue as ``.delay()``'s do (submit, claim, commit), on a queue that is this application's own, so
that task workers leave them alone and the application takes up after a restart what it had not finished. Stops with the
process: what runs then goes back to the queue. What executes is ``thread_lanes``; here stands which tasks it serves.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.durability import Durability
from kapstan.engine import keeping, submission
from kapstan.engine.submit_options import SubmitOptions
from kapstan.identity import importable_name, unfindable
from kapstan.ids import RunId, new_nonce
from kapstan.specs import TaskSpec
from kapstan.worker.thread_lanes import ThreadLanes


class HasSpec(Protocol):
    """A decorated task."""

    spec: TaskSpec


Registered = Callable[[], Mapping[str, HasSpec]]

_local = f"local@{new_nonce()}"
"""The identity under which the queue holds runs of functions that only this process has: closures, partials, objects,
and a second function of one identity. No other process takes them."""


def submit(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], registered: Registered) -> RunId:
    """Accept one run for this process' background, which is started at the first; its id. Raises as ``submission``.

    What runs is this very function, with these options.

    Args:
        registered: the tasks of this process; one started earlier may have left runs of any of them.
    """
    backend = backends.current()
    known = registered().get(spec.identity)
    if unfindable(spec.identity, spec.fn) or (known is not None and known.spec.fn is not spec.fn):
        spec = replace(spec, identity=_local, durability=Durability.REDIS)  # nobody else could execute it
    lanes = _serving(backend, spec, registered)
    options = SubmitOptions(
        queue=queue_name(), priority=spec.priority, expires=spec.expires, durability=spec.durability
    )
    return submission.submit(spec, args, kwargs, options, named=lambda run_id: lanes.expect(run_id, spec))


def start(registered: Registered) -> None:
    """Take up what an earlier process of this application left, without waiting for its first ``submit``."""
    for task in registered().values():
        _serving(backends.current(), task.spec, registered)


def queue_name() -> str:
    """The queue of this application: every process of one program shares it, whatever machine it is on.

    Named by the main module and the folder that it stands in; for a program that serves other people's code (uvicorn,
    gunicorn, celery), by the folder that it was started in.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    script = Path(file).resolve() if file else None
    own = script is not None and script.suffix == ".py" and not script.is_relative_to(Path(sys.prefix).resolve())
    folder = script.parent if own and script is not None else Path.cwd()
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return f"app.{importable_name('__main__').removesuffix('.__main__')[:100]}.{place}"


_lock = threading.Lock()
_lanes: ThreadLanes | None = None


def _serving(backend: Backend, spec: TaskSpec, registered: Registered) -> ThreadLanes:
    """The lanes of this process, which serve ``spec``: a task that was defined later gets new ones for it and all the
    others."""
    global _lanes
    lanes = _lanes
    if lanes is not None and lanes.serves(spec.identity):
        return lanes
    with _lock:
        if _lanes is not None and _lanes.serves(spec.identity):
            return _lanes
        keeping.check_default(backend)
        specs = {task.spec.identity: task.spec for task in registered().values()}
        specs[spec.identity] = spec
        if _lanes is None:
            atexit.register(stop)
            backend.before_close(stop)
        else:
            _lanes.retire()
        _lanes = ThreadLanes(backend, specs, {*specs, _local}, backend.settings.submit_limit, queue_name(), _lanes)
        return _lanes


def stop() -> None:
    """End the background of this process; called when it exits, and before its backend is closed."""
    global _lanes
    with _lock:
        lanes, _lanes = _lanes, None
    atexit.unregister(stop)
    if lanes is not None:
        lanes.stop()


def _forget_after_fork() -> None:
    global _lock, _lanes, _local
    _lock = threading.Lock()
    _lanes = None
    _local = f"local@{new_nonce()}"


os.register_at_fork(after_in_child=_forget_after_fork)
