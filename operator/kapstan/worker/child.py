"""The life of one executor child: load the tasks, report, wait for the go, execute, leave.

Runs in the forked process. Here alone user code is imported (``kapstan task serve``), and here the signals of the
supervisor become an interrupted run or a woken lane.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kapstan import backend, run_limits
from kapstan.engine import keeping
from kapstan.engine.background import BackgroundEngine
from kapstan.engine.waiting import belongs_to
from kapstan.errors import HandBack, KapstanError
from kapstan.ports import Lane
from kapstan.runs import deaths
from kapstan.specs import TaskSpec
from kapstan.states import ExitCode
from kapstan.worker import recall
from kapstan.worker.board import Board, Order, Slot
from kapstan.worker.children import LOOK, REPLACE, Parent
from kapstan.worker.descendants import kill_below
from kapstan.worker.executor import Executor
from kapstan.worker.guard import Guard
from kapstan.worker.last_lines import LastLines, keep

Load = Callable[[], Mapping[str, TaskSpec]]
"""The tasks to serve, by identity. Called once, in the child."""


def main(
    lane: int, slot: Slot, parent: Parent, *, load: Load, session: str, queues: Sequence[str], board: Board
) -> int:
    """Serve until ordered to leave; the exit code."""
    try:
        specs = load()
        keeping.check_default(backend.current())
    except Exception as error:  # noqa: BLE001  (importing user code raises anything)
        reason = str(error) if isinstance(error, KapstanError) else traceback.format_exc()
        parent.report(problem=reason)
        return ExitCode.USAGE
    served = routes(specs, queues)
    parent.report(
        served=served, limits={task: found for task, spec in specs.items() if any(found := run_limits.of(spec))}
    )
    parent.await_go()

    ours = backend.current()
    deaths.in_worker(session, parent.mark)
    engine = BackgroundEngine(specs, ours)
    line = ours.queue.open_lane(session, lane, served)
    recall.register()
    keep(LastLines(slot))
    guard = Guard(slot, line, parent.channel)

    def batch_begins() -> None:
        guard.batch_begins()
        if not board.watched:
            parent.look()

    def end_helpers() -> bool:
        return kill_below(os.getpid(), parent.mark) > 0

    executor = Executor(line, engine, slot, batch_begins, end_helpers)
    belongs_to(_Place(slot, parent))
    _obey(slot, engine, executor, line)
    guard.watch(executor)
    executor.run()
    engine.close()
    line.close()
    return REPLACE if executor.replace else ExitCode.DONE


def routes(specs: Mapping[str, TaskSpec], queues: Sequence[str]) -> list[tuple[str, str]]:
    """(task, queue) of all that is claimed: each task from each of ``queues``; where none is named, from ``default``
    and from the one that the task names."""
    return [
        (task, queue)
        for task, spec in sorted(specs.items())
        for queue in dict.fromkeys(queues or ("default", spec.queue))
    ]


class _Place:
    """This child's place among those that execute at a time."""

    def __init__(self, slot: Slot, parent: Parent) -> None:
        self._slot = slot
        self._parent = parent

    @contextmanager
    def without_place(self) -> Generator[None]:
        """While the run that executes waits for another one, the supervisor has a further child."""
        self._slot.waits = True
        self._parent.look()
        try:
            yield
        finally:
            self._slot.waits = False
            self._parent.look()


def _obey(slot: Slot, engine: BackgroundEngine, executor: Executor, line: Lane) -> None:
    """From now on the supervisor's LOOK interrupts the run that it names, or wakes the lane."""
    assert threading.current_thread() is threading.main_thread()

    def look(_signal: int, _frame: Any) -> None:
        line.wake()
        if slot.order == Order.STOP and engine.executing:
            raise HandBack
        cancel = slot.cancel
        if executor.spool.storing and (slot.order == Order.STOP or executor.spool.storing == cancel):
            raise HandBack
        if cancel:
            engine.interrupt(cancel)

    signal.signal(LOOK, look)
