"""``serve(*tasks)``: this process becomes a worker for what ``.delay()`` submits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from kapstan import settings
from kapstan.engine import queue_options
from kapstan.errors import ConfigurationError
from kapstan.identity import doubt_about_main
from kapstan.worker import entrypoints, service

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kapstan.tasks import Task

__all__ = ["serve"]


def serve(
    *tasks: Task[..., Any],
    limit: int | None = None,
    name: str = "",
    queue: str | Iterable[str] | None = None,
    drain_seconds: float = service.DRAIN_SECONDS,
) -> None:
    """Serve ``tasks``: execute their background runs until SIGTERM or Ctrl-C, then finish what runs and return.

    Forks ``limit`` processes; each executes one run at a time. Call it before the program starts threads or opens
    connections that a fork must not share.

    Args:
        limit: runs at a time; 10 unless ``KAPSTAN_WORKER_LIMIT`` says otherwise.
        name: the worker's name in lists; empty: the program's name.
        queue: the name of the queue, or the names of those, from which runs are claimed. Default: of each task
            `default`, and the queue that its option `queue` names.
        drain_seconds: how many seconds runs may go on after the first signal; then they go back to the queue. A second
            signal breaks them off at once.

    Raises:
        ConfigurationError: nothing to serve, something that is no task, a limit below 1, not the main thread.
        DuplicateTask: two tasks of one identity.
        QueueUnavailable: the queue does not answer at the start.
    """
    if not tasks:
        raise ConfigurationError("serve() was called without a task: pass functions decorated with @task")
    specs = [entrypoints.spec_of(task) for task in tasks]
    for task, spec in zip(tasks, specs, strict=True):
        if spec is None:
            raise ConfigurationError(f"serve() takes tasks; {task!r} is none: decorate it with @task")
    named = () if queue is None else (queue,) if isinstance(queue, str) else queue
    queues = [queue_options.queue("queue", each) for each in named]
    if doubt := doubt_about_main():
        warnings.warn(doubt, UserWarning, stacklevel=2)
    by_identity = entrypoints.by_identity(spec for spec in specs if spec is not None)
    service.run(
        lambda: by_identity,
        lanes=settings.current().worker_limit if limit is None else limit,
        worker=name,
        queues=queues,
        drain_seconds=drain_seconds,
    )
