"""Tasks of one namespace: what waits and runs of each, and pausing. Loads no user code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kapstan.backend import Backend
from kapstan.errors import NotFound, NotPossible

_MINUTES = 180  # tasks of which runs were submitted or executed within so long are known, beside those that are served


@dataclass(frozen=True, slots=True)
class TaskView:
    """What people see of a task in one queue.

    Attributes:
        task: empty: every task of a queue that is paused, and of which none is known.
        ready: runs that wait for a worker, also those that wait because of a pause or a limit.
        limited: those of them that a limit of the task or of their group does not let begin now.
        workers: sessions that serve it.
        paused: ``task``, ``queue`` or empty: what a person has paused.
    """

    task: str
    queue: str
    ready: int
    limited: int
    delayed: int
    running: int
    workers: int
    paused: str


class Tasks:
    """Operations on the tasks of one backend.

    Raises (every method):
        QueueUnavailable: Redis does not answer.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self) -> list[TaskView]:
        """Every task that a worker serves, that is paused, or that had runs in the last three hours, and every queue
        that is paused; by name."""
        queue = self._backend.queue
        paused = set(queue.paused())
        served = self._served()
        views: list[TaskView] = []
        known = self._known(served, paused)
        known |= {(task, name) for task, name in paused if not task} - {("", name) for _, name in known}
        for task, name in sorted(known):
            depth = queue.depth([(task, name)] if task else [])
            views.append(
                TaskView(
                    task=task,
                    queue=name,
                    ready=depth.ready + depth.paused + depth.limited,
                    limited=depth.limited,
                    delayed=depth.delayed,
                    running=depth.running,
                    workers=served[task, name],
                    paused="task" if task and (task, name) in paused else "queue" if ("", name) in paused else "",
                )
            )
        return views

    def pause(self, task: str, queue: str = "default") -> str:
        """Let no more runs of a task start from ``queue``, until ``resume``. Runs that a worker holds already go on.

        Args:
            task: its identity, or the last part of one that is known; empty: every task of that queue.

        Returns:
            the task's identity.

        Raises:
            NotFound: no such task is known.
            NotPossible: it was paused before, or several tasks end so.
        """
        found = self._find(task, queue)
        if not self._backend.queue.pause(found, queue):
            raise NotPossible(f"{_name(found, queue)} is paused already")
        return found

    def resume(self, task: str, queue: str = "default") -> str:
        """End ``pause``; what waits starts at once.

        Raises:
            NotFound: no such task is known.
            NotPossible: it is not paused, or several tasks end so.
        """
        found = self._find(task, queue)
        if not self._backend.queue.resume(found, queue):
            hint = ""
            if found and ("", queue) in self._backend.queue.paused():
                hint = f"; its queue is: `kapstan task resume --queue {queue}`"
            raise NotPossible(f"{_name(found, queue)} is not paused{hint}")
        return found

    def is_known(self, task: str, queue: str) -> bool:
        """Whether a worker serves this task (its identity), or it had runs in the last three hours."""
        return (task, queue) in self._known(self._served(), set())

    def _served(self) -> Counter[tuple[str, str]]:
        return Counter(each for session in self._backend.queue.sessions() for each in session.served)

    def _known(self, served: Counter[tuple[str, str]], paused: set[tuple[str, str]]) -> set[tuple[str, str]]:
        known = {*served, *((task, queue) for task, queue in paused if task)}
        for _, counted in self._backend.background_runs.counts(_MINUTES):
            for _, route in counted:
                queue, bar, task = route.partition("|")
                if route:
                    known.add((task, queue) if bar else (route, "default"))
        return known

    def _find(self, text: str, queue: str) -> str:
        if not text or ":" in text:
            return text
        known = {task for task, name in self._known(self._served(), set(self._backend.queue.paused())) if name == queue}
        if text in known:
            return text
        found = sorted(task for task in known if task.endswith((f":{text}", f".{text}")))
        if len(found) > 1:
            raise NotPossible(f"{text!r} is the end of several tasks: {', '.join(found[:5])}")
        if not found:
            raise NotFound(
                f"no task {text!r} is known in queue {queue}; give its identity (`kapstan task ls` lists them)"
            )
        return found[0]


def _name(task: str, queue: str) -> str:
    return f"task {task} in queue {queue}" if task else f"queue {queue}"
