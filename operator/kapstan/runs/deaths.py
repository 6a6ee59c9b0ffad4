"""Whose process holds an intent, and whether that process is known to have ended. Silence is no death: a process that
stopped, hangs or cannot be reached may go on and do what it began.

Two things prove an end. On one machine: the process with that number and start is gone (Linux). From anywhere: somebody
saw it end, as a supervisor sees its child and the operator a container, and noted it in the queue
(``Queue.note_end``).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kapstan.backend import Backend
from kapstan.errors import BackendError, ConfigurationError
from kapstan.ids import RunId, executor_of, host_label, new_nonce
from kapstan.ports import Holder

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Here(NamedTuple):
    """This process, as holders of its intents name it."""

    process: str
    machine: str
    pid: int
    started: int
    host: str


_here: _Here | None = None
_session, _executor = "", ""


def in_worker(session: str, executor: str) -> None:
    """This process is the child ``executor`` of a worker's ``session``; called once in it."""
    global _session, _executor
    _session, _executor = session, executor


def in_flow(run_id: RunId, attempt: int) -> None:
    """This process executes that attempt of a flow run; called once in it."""
    global _executor
    _executor = executor_of(run_id, attempt)


def holder_of(run_id: RunId) -> Holder:
    """This process as the holder of an intent of ``run_id``."""
    global _here
    here = _here
    if here is None:
        pid = os.getpid()
        started = _started(pid) or 0
        here = _here = _Here(new_nonce(), _machine() if started else "", pid, started, host_label())
    return Holder(run_id, here.process, here.machine, here.pid, here.started, _session, _executor, here.host)


def is_here(holder: Holder) -> bool:
    """Whether it is this process, and not only one with its number."""
    return _here is not None and holder.process == _here.process


def is_elsewhere(holder: Holder) -> bool:
    """Whether this machine cannot see if the holder's process lives."""
    return not is_here(holder) and (holder.machine == "" or holder.machine != _machine())


def end_of(backend: Backend, holder: Holder) -> Mapping[str, Any] | None:
    """What proves that the holder's process has ended; None: nothing does, it may live.

    A queue that cannot be asked proves nothing.
    """
    if is_here(holder):
        return None
    on_this_machine = holder.machine != "" and holder.machine == _machine()
    if on_this_machine and not _is_gone(holder.pid, holder.started):
        return None
    noted = _noted(backend, holder)
    if noted is None and on_this_machine:
        return {"seen": f"process {holder.pid} of this machine is gone"}
    return noted


def _noted(backend: Backend, holder: Holder) -> Mapping[str, Any] | None:
    """What was noted of the holder's end by whoever saw it."""
    if not holder.session and not backend.settings.redis_url:
        return None  # a flow that knows no queue, and starts none
    for name in filter(None, (holder.executor, holder.session)):
        try:
            found = backend.queue.seen_end(name)
        except (BackendError, ConfigurationError):
            return None
        if found is not None:
            return found
    return None


def _machine() -> str:
    """The boot of this machine and what process numbers and times count in: two containers of one machine may have the
    same numbers."""
    if sys.platform != "linux":
        return ""
    try:
        spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "time")]
        return " ".join([_BOOT.read_text().strip(), *spaces])
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When the process ``pid`` began, in ticks since the boot; None if that cannot be read."""
    fields = _status(pid)
    return None if fields is None else int(fields[19])


def _status(pid: int) -> list[str] | None:
    """The fields of ``/proc/<pid>/stat`` behind the name (which may hold anything): the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _is_gone(pid: int, started: int) -> bool:
    """Whether the process that had this number and start has ended: nothing of it executes any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's: it is there
    fields = _status(pid)
    if fields is None:  # hidden from us, or it went just now: the next look tells
        return False
    if int(fields[19]) != started:
        return True
    if fields[0] not in ("Z", "X"):
        return False
    with contextlib.suppress(OSError):  # its first thread may have ended before the others
        return len(os.listdir(f"/proc/{pid}/task")) <= 1
    return False


def _forget_after_fork() -> None:
    global _here
    _here = None


os.register_at_fork(after_in_child=_forget_after_fork)
