"""``.submit()`` outside a flow: the background of this process, for web applications without workers of their own.

Runs go through the queue as ``.delay()``'s do (submit, claim, commit), on a queue that is this application's own, so
that task workers leave them alone and the application takes up after a restart what it had not finished. A supervisor
thread keeps the lease; each lane is a thread. Stops with the process: what runs then goes back to the queue.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.engine import submission
from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.errors import BackendError
from kapstan.identity import importable_name
from kapstan.ids import RunId
from kapstan.logging import set_up
from kapstan.ports import Claim, Lane, Outcome, Session
from kapstan.specs import TaskSpec

logger = logging.getLogger("kapstan.worker")


class HasSpec(Protocol):
    """A decorated task."""

    spec: TaskSpec


Registered = Callable[[], Mapping[str, HasSpec]]


def submit(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], registered: Registered) -> RunId:
    """Accept one run for this process' background, which is started at the first; its id. Raises as ``submission``.

    Args:
        registered: the tasks of this process; one started earlier may have left runs of any of them.
    """
    backend = backends.current()
    _ensure(backend, spec, registered)
    return submission.submit(spec, args, kwargs, queue=queue_name())


def start(registered: Registered) -> None:
    """Take up what an earlier process of this application left, without waiting for its first ``submit``."""
    for task in registered().values():
        _ensure(backends.current(), task.spec, registered)


def queue_name() -> str:
    """The queue of this application: every process of one program shares it, whatever machine it is on."""
    return f"app.{importable_name('__main__').removesuffix('.__main__')}"[:120]


class _Background:
    """A session of its own for a set of tasks: one supervisor thread, ``lanes`` threads that execute."""

    def __init__(self, backend: Backend, specs: Mapping[str, TaskSpec], lanes: int) -> None:
        set_up()
        self._backend = backend
        self._specs = dict(specs)
        self._stopping = threading.Event()
        self._queue = queue_name()
        tasks = sorted(specs)
        self._session: Session = backend.queue.open_session(self._queue, tasks, lanes, queue=self._queue)
        self._lanes: list[Lane] = []
        self._threads = [threading.Thread(target=self._keep_lease, name="kapstan-background", daemon=True)]
        for number in range(lanes):
            lane = backend.queue.open_lane(self._session.name, number, tasks, queue=self._queue)
            self._lanes.append(lane)
            name = f"kapstan-background-{number}"
            self._threads.append(threading.Thread(target=self._serve, args=(lane,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """What it executes, by identity."""
        return self._specs

    def serves(self, spec: TaskSpec) -> bool:
        return spec.identity in self._specs

    def stop(self) -> None:
        """Claim no more; give everything back that has not ended."""
        self._stopping.set()
        try:
            self._session.wake()
            for lane in self._lanes:
                lane.wake()
            self._session.close()
        except BackendError as error:
            logger.warning("The background of this process ends without the queue: %s", error)

    def _keep_lease(self) -> None:
        beat = self._backend.settings.beat_seconds
        due = 0.0
        while not self._stopping.is_set():
            try:
                renewed = self._session.renew()
                due = beat if renewed.next_due is None else min(beat, renewed.next_due)
                self._session.wait(max(due, 0.001))
            except BackendError as error:
                logger.warning("The background of this process cannot renew its lease: %s", error)
                self._stopping.wait(beat)

    def _serve(self, lane: Lane) -> None:
        """One run at a time: finish what is done, claim the next in the same round trip, else wait to be handed one."""
        engine = BackgroundEngine(self._specs, self._backend)
        outcomes: list[Outcome] = []
        while not self._stopping.is_set():
            try:
                stepped = lane.step(outcomes, 1)
                outcomes = []
                for run_id in stepped.lost:
                    logger.warning("LOST: run %s is no longer this process'; its outcome is dropped", run_id)
                claims = stepped.claims or lane.wait(None)
                outcomes = [outcome for claim in claims if (outcome := self._run(engine, lane, claim)) is not None]
            except BackendError as error:
                logger.warning("The queue or the store is away; the background goes on when it is back: %s", error)
                self._stopping.wait(self._backend.settings.beat_seconds)
        engine.close()

    def _run(self, engine: BackgroundEngine, lane: Lane, claim: Claim) -> Outcome | None:
        try:
            done = engine.run(claim)
            if isinstance(done, Outcome):
                done = engine.stored(done)
        except BackendError as error:
            logger.warning("Run %s goes back to the queue: %s", claim.run_id, error)
            lane.give_back([])
            return None
        if isinstance(done, RetryLater):
            lane.retry(done.run_id, done.token, done.delay)
            return None
        return done


_lock = threading.Lock()
_started: list[_Background] = []


def _ensure(backend: Backend, spec: TaskSpec, registered: Registered) -> None:
    if any(background.serves(spec) for background in _started):
        return
    with _lock:
        if any(background.serves(spec) for background in _started):
            return
        served = {identity for background in _started for identity in background.tasks}
        specs = {task.spec.identity: task.spec for task in registered().values() if task.spec.identity not in served}
        specs[spec.identity] = spec
        _started.append(_Background(backend, specs, backend.settings.submit_limit))
        if len(_started) == 1:
            atexit.register(stop)


def stop() -> None:
    """End the background of this process; called when it exits."""
    with _lock:
        for background in _started:
            background.stop()
        _started.clear()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _started.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
