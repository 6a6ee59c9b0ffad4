"""The processes that user code starts: finds them, ends them with a run that is broken off, and reaps them. Called by
supervisors and executor children.

A process that is killed leaves its own children behind. On Linux a supervisor is their *subreaper*: whatever its
descendants leave behind becomes its own child, however far it went (a session of its own, a double fork), so that it
can be ended, and is no zombie afterwards: the duty of an init where the supervisor is PID 1. A mark tells which
executor an adopted process belongs to: a variable in its environment, or an open file that only forks of that executor
have. The embedded server, which a run may have been the first to need, is left alone, and so is the keeper of locks,
which frees them when the executor has ended. On other systems only the child itself is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kapstan.queue.keeper import is_keeper
from kapstan.queue.server import is_server

_MARK = "KAPSTAN_EXECUTOR"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"
_ROUNDS = 20  # of looking for what was started while the last look was taken
_DIED_OF = ("Z", "X")


class Process(NamedTuple):
    """A process of this machine, from ``/proc``."""

    pid: int
    parent: int
    state: str


def bear(mark: str) -> None:
    """Mark this process and everything that it starts from now on; called once in an executor."""
    os.environ[_MARK] = mark
    if _LINUX:
        os.memfd_create(_file(mark))  # stays open; forks have it, programs that are executed do not


def adopt(*, begin: bool = True) -> None:
    """From now on (or no longer) what descendants leave behind becomes a child of this process."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(begin))


def die_with_parent() -> None:
    """From now on this process is killed when its parent ends; who calls this looks afterwards whether it has."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children_of(pid: int) -> set[int]:
    """Pids of the children of ``pid``, including those that have ended and are not reaped yet."""
    if not _LINUX:
        return set()
    found: set[int] = set()
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    except FileNotFoundError:  # it ends, or the kernel has no such file
        return {process.pid for process in _processes().values() if process.parent == pid}
    return found


def bury(pids: Iterable[int]) -> None:
    """Reap those of ``pids`` that have ended."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def kill_below(root: int, mark: str = "") -> int:
    """Send SIGKILL to every process that descends from ``root`` or bears ``mark``, except ``root`` and this process;
    how many they were. Parents come before children, so that a shell does not go on to its next command."""
    spared = {root, os.getpid()}
    killed = 0
    for _ in range(_ROUNDS):
        processes = _processes()
        marked = {pid for pid in processes if mark and processes[pid].state not in _DIED_OF and _bears(pid, mark)}
        tops = [root, *(pid for pid in marked if processes[pid].parent not in marked)]
        victims = [pid for pid in _trees(processes, tops) if pid not in spared and not _left_alone(pid)]
        if not victims:
            break
        for pid in victims:
            _kill(pid)
        spared.update(victims)
        killed += len(victims)
    return killed


def kill_tree(root: int, mark: str = "") -> None:
    """Send SIGKILL to ``root``, a child of this process that is not reaped yet, and to everything below it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGSTOP)  # so that it starts nothing more, and its own threads wait for nobody
        kill_below(root, mark)
        os.kill(root, signal.SIGKILL)


class Adopted:
    """What this supervisor has adopted; children that it had before are left alone."""

    def __init__(self) -> None:
        self._left_alone = frozenset(children_of(os.getpid()))

    def look(self, own: Iterable[int]) -> set[int]:
        """Reap those that have ended; the pids of the others. ``own``: pids of the executors."""
        adopted = children_of(os.getpid()) - self._left_alone - set(own)
        bury(adopted)
        return adopted

    def end(self, own: Iterable[int], mark: str) -> None:
        """End what the executor with ``mark``, which has just died, left behind."""
        for _ in range(_ROUNDS):
            left = {pid for pid in self.look(own) if _state(pid) not in _DIED_OF and _bears(pid, mark)}
            if not left:
                return
            for pid in _trees(_processes(), left):
                if not _left_alone(pid):
                    _kill(pid)


def _left_alone(pid: int) -> bool:
    return is_server(pid) or is_keeper(pid)


_PYTHONS_OWN: Mapping[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGALRM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
}


def reset_signals_in_forks() -> None:
    """Give every later fork of this process Python's own signal handlers instead of ours.

    Executors leave SIGTERM to their supervisor; if a fork inherited that, ``multiprocessing.Process.terminate()`` would
    do nothing. Programs that are executed have the default handlers anyway.
    """

    masks = threading.local()  # held back while it is a fork with the handlers of its parent

    def hold_back() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _PYTHONS_OWN)

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def reset() -> None:
        for number, handler in _PYTHONS_OWN.items():
            if str(getattr(signal.getsignal(number), "__module__", "")).startswith("kapstan."):
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PYTHONS_OWN)

    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=reset)


# ---------------------------------------------------------------------------------------------- /proc


def _processes() -> dict[int, Process]:
    found: dict[int, Process] = {}
    if not _LINUX:
        return found
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _process(int(name))) is not None:
            found[process.pid] = process
    return found


def _process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            _, _, rest = file.read().rpartition(b")")  # the name before it may hold anything
    except OSError:
        return None
    state, parent = rest.split(None, 2)[:2]
    return Process(pid, int(parent), state.decode())


def _state(pid: int) -> str:
    process = _process(pid)
    return "X" if process is None else process.state


def _trees(processes: Mapping[int, Process], tops: Iterable[int]) -> list[int]:
    """``tops`` and those below them that have not ended, parents first."""
    below: dict[int, list[int]] = {}
    for process in processes.values():
        if process.state not in _DIED_OF:
            below.setdefault(process.parent, []).append(process.pid)
    found = dict.fromkeys(tops)
    todo = list(found)
    while todo:
        later = [pid for parent in todo for pid in below.get(parent, []) if pid not in found]
        found.update(dict.fromkeys(later))
        todo = later
    return list(found)


def _bears(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # of its program, as it was when that began
            if f"{_MARK}={mark}".encode() in file.read().split(b"\0"):
                return True
        return any(_file(mark) in os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended, or is another user's
        return False


def _file(mark: str) -> str:
    return f"kapstan-executor-{mark}"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
