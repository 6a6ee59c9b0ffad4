"""Forks executor children, gives them orders and notices their end. Called by the supervisor only.

Children are forked by the supervisor itself, at any time, which is safe because the supervisor has no thread but its
main one and a child never touches the connections it inherits: ``backend`` forgets them in every forked child, and the
client library closes them without a word to the server. The first children are forked before any connection exists.

Each child has one end of a socket pair. It reports on it what it serves (or why it cannot), waits there for the go, and
takes its end of file for the end of the supervisor. On Linux the kernel kills it then, too, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kapstan.ids import new_nonce
from kapstan.run_limits import Limits, RateLimit
from kapstan.states import ExitCode
from kapstan.worker import descendants
from kapstan.worker.board import Slot

logger = logging.getLogger("kapstan.worker")

LOOK = signal.SIGUSR1
"""Either side tells the other to look at the board and the socket."""
REPLACE = 76
"""Exit code of a child that leaves because a run which was broken off in it had started processes."""
_HELD_BACK = {LOOK, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM}
_OOM_SCORE = "500"  # the kernel's killer should take a child, not the supervisor


@dataclass(slots=True)
class Child:
    """One forked executor.

    Attributes:
        mark: names it in the environment of what its runs start.
        born: monotonic time of its fork.
        served: (task, queue) of all that it serves, once it has reported.
        limits: of its tasks, by identity.
        problem: why it cannot serve, if it reported that or died before.
        kill_at: monotonic time at which it is killed unless it has gone.
        cancelled: the run that it was ordered to break off.
        pardoned: it was killed for the supervisor's reasons; the run it was executing is not charged with that.
    """

    lane: int
    pid: int
    channel: socket.socket
    slot: Slot
    mark: str
    born: float = field(default_factory=time.monotonic)
    served: tuple[tuple[str, str], ...] | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    problem: str = ""
    kill_at: float | None = None
    cancelled: str = ""
    pardoned: bool = False
    _received: bytes = field(default=b"", repr=False)

    @property
    def silent(self) -> bool:
        """Whether it has not reported yet."""
        return self.served is None and not self.problem

    def look(self) -> None:
        """Make it look at the board."""
        os.kill(self.pid, LOOK)  # it is ours and not yet waited for, so the pid is its own

    def kill(self) -> None:
        """SIGKILL, for it and for what its runs have started."""
        descendants.kill_tree(self.pid, self.mark)

    def go(self) -> None:
        """The session stands; it may claim."""
        with contextlib.suppress(OSError):  # it has died; the SIGCHLD is on its way
            self.channel.send(b"go\n")

    def hear(self) -> None:
        """Read what it has reported so far, without waiting."""
        while self.silent:
            try:
                part = self.channel.recv(65536)
            except OSError:
                return
            if not part:
                self.problem = "its process died before it could serve"
                return
            self._received += part
            if self._received.endswith(b"\n"):
                report = json.loads(self._received)
                self.problem = report.get("problem", "")
                self.limits = {task: _limits(found) for task, found in report.get("limits", {}).items()}
                self.served = tuple((task, queue) for task, queue in report["served"]) if "served" in report else None


def _limits(found: list[Any]) -> Limits:
    """As JSON has them."""
    slots, rate, group_slots, group_rate = found
    return Limits(slots, rate and RateLimit(*rate), group_slots, group_rate and RateLimit(*group_rate))


class Parent:
    """The supervisor, as the child sees it. ``mark``: see ``Child``."""

    def __init__(self, channel: socket.socket, pid: int, mark: str) -> None:
        self.channel = channel
        self.mark = mark
        self._pid = pid

    def report(self, **report: Any) -> None:
        """Say ``served=[(task, queue)], limits={task: limits}`` or ``problem="why not"``."""
        self.channel.sendall(json.dumps(report).encode() + b"\n")
        self.look()

    def await_go(self) -> None:
        """Block until the session stands; exits when the supervisor is gone."""
        if not self.channel.recv(64):
            os._exit(ExitCode.FAILED)
        self.channel.setblocking(False)

    def look(self) -> None:
        """Make the supervisor look at the board and the socket."""
        if self.lives:
            os.kill(self._pid, LOOK)

    @property
    def lives(self) -> bool:
        return os.getppid() == self._pid


Main = Callable[[int, Slot, Parent], int]
"""What a child does: (lane, its slot, its supervisor) -> exit code."""


def fork(lane: int, slot: Slot, main: Main, siblings: Sequence[Child]) -> Child:
    """A new child that runs ``main`` and exits with what that returns."""
    slot.clear()
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    mark = new_nonce()
    parent = Parent(theirs, os.getpid(), mark)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        pid = os.fork()
        if pid == 0:
            descendants.bear(mark)
            _become_child(parent, [ours, *(sibling.channel for sibling in siblings)])
            _run(main, lane, slot, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    theirs.close()
    ours.setblocking(False)
    return Child(lane, pid, ours, slot, mark)


def bury(children: Sequence[Child]) -> list[tuple[Child, int]]:
    """Those of ``children`` that have ended, with their exit codes (negative: the signal)."""
    dead: list[tuple[Child, int]] = []
    for child in children:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            child.hear()
            child.channel.close()
            dead.append((child, os.waitstatus_to_exitcode(status)))
    return dead


def _become_child(parent: Parent, supervisors_ends: Sequence[socket.socket]) -> None:
    """Die with the supervisor, and keep nothing open that would hide its end from the siblings."""
    signal.set_wakeup_fd(-1)
    for name in (signal.SIGCHLD, signal.SIGALRM):  # of the supervisor's: its alarm kills the siblings of a lost lease
        signal.signal(name, signal.SIG_DFL)
    # Ctrl-C and a group's SIGTERM are the supervisor's to answer. Not SIG_IGN: what the user's code starts would
    # inherit that.
    for name in (signal.SIGINT, signal.SIGTERM, LOOK):
        signal.signal(name, _leave_it_to_the_supervisor)
    descendants.reset_signals_in_forks()
    for end in supervisors_ends:
        end.close()
    descendants.die_with_parent()
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(_OOM_SCORE)
    if not parent.lives:  # it died before the kernel was asked to tell
        os._exit(ExitCode.FAILED)


def _run(main: Main, lane: int, slot: Slot, parent: Parent) -> None:
    """Never returns: a child must not run on into the supervisor's code, nor its exit handlers."""
    code = int(ExitCode.FAILED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    try:
        code = main(lane, slot, parent)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else code
        logger.error("A task ended its process: SystemExit(%r)", error.code)
    except BaseException:
        logger.exception("Executor %d of process %d ends", lane, os.getpid())
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _leave_it_to_the_supervisor(_signal: int, _frame: Any) -> None:
    """A handler instead of SIG_IGN, see above."""


def wait_for_report(children: Sequence[Child], bell: int, timeout: float) -> None:
    """Block until one of ``children`` reports or dies, ``bell`` can be read, or ``timeout`` seconds have passed."""
    silent = [child for child in children if child.silent]
    select.select([bell, *(child.channel for child in silent)], [], [], timeout)
    for child in silent:
        child.hear()
