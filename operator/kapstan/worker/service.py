"""Starts a worker in this process: names its session, gathers settings, becomes the supervisor.

Called by ``task_worker.serve`` and by ``kapstan task serve``; from here on the process serves until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kapstan import settings
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError
from kapstan.ids import host_label, new_nonce
from kapstan.ports import launch
from kapstan.worker.child import Load
from kapstan.worker.lanes import Service
from kapstan.worker.supervisor import Supervisor

DRAIN_SECONDS = 30.0
MOST_LANES = 1000
"""Runs at a time in one worker, each in a process of its own."""


def run(
    load: Load,
    *,
    lanes: int,
    worker: str = "",
    queues: Sequence[str] = (),
    drain_seconds: float = DRAIN_SECONDS,
    ready_file: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Serve the tasks that ``load`` brings (in each child) with ``lanes`` runs at a time; the exit code.

    The session is called ``KAPSTAN_SESSION`` (a pod's UID), else host and process, and a nonce of this start: whoever
    sees the pod or process end can end the session by the first part.

    Args:
        queues: from which it claims; none: see ``child.routes``.

    Raises:
        ConfigurationError: not the main thread, a platform without fork, or numbers that make no sense.
        QueueUnavailable, StoreUnavailable: at the start one of them was away for KAPSTAN_REDIS_RETRY_SECONDS.
    """
    _check(lanes, drain_seconds)
    ours = settings.current()
    name = os.environ.get(launch.SESSION) or f"{host_label()}-{os.getpid()}"

    def ready(served: Sequence[tuple[str, str]]) -> None:
        if ready_file is not None:
            ready_file.write_text(f"{os.getpid()}\n")
        say(_serving(served, lanes))

    def not_ready() -> None:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)

    service = Service(
        load=load,
        worker=worker or os.environ.get(launch.WORKER_NAME) or Path(sys.argv[0]).stem or "worker",
        session=f"{name}-{new_nonce()}",
        lanes=lanes,
        queues=queues,
        drain_seconds=drain_seconds,
        patience=ours.redis_retry_seconds,
        on_ready=ready,
        on_drain=not_ready,
    )
    # The supervisor must not stand still for long: it gives up a call within a beat and comes back to it.
    patient = Backend(
        replace(
            ours,
            redis_retry_seconds=min(ours.redis_retry_seconds, ours.beat_seconds),
            store_deadline_seconds=min(ours.store_deadline_seconds, ours.beat_seconds),
        )
    )
    patient.preload()
    try:
        return Supervisor(service, patient).run()
    finally:
        patient.close()
        not_ready()


def _serving(served: Sequence[tuple[str, str]], lanes: int) -> str:
    tasks = sorted({task for task, _ in served})
    named = sorted({queue for _, queue in served})
    at_a_time = f"{lanes} run{'s' if lanes > 1 else ''} at a time"
    at_a_time += "" if named == ["default"] else f", from queue{'s' if len(named) > 1 else ''} {', '.join(named)}"
    return f"Serving {len(tasks)} task{'s' if len(tasks) > 1 else ''}, {at_a_time}: {', '.join(tasks)}"


def _check(lanes: int, drain_seconds: float) -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve() must be called in the main thread: it waits for signals")
    if not hasattr(os, "fork"):
        raise ConfigurationError(f"{sys.platform} has no fork(): serve tasks on Linux or macOS")
    if not 1 <= lanes <= MOST_LANES:
        raise ConfigurationError(f"limit={lanes}: give the number of runs at a time, 1 to {MOST_LANES}")
    if not (drain_seconds >= 0 and math.isfinite(drain_seconds)):
        raise ConfigurationError(f"drain_seconds={drain_seconds}: give a number of seconds, 0 or more")
