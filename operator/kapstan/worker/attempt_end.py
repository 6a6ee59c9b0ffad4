"""How the process of an attempt ended: what its exit code says, and whether that is so. Called by ``flow_process``."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from typing import NamedTuple

from kapstan import backend as backends
from kapstan.engine.key_intent import open_intents
from kapstan.errors import KapstanError
from kapstan.ids import RunId
from kapstan.journal import read_journal
from kapstan.states import AttemptOutcome, ExitCode

logger = logging.getLogger("kapstan.engine")


class End(NamedTuple):
    """What an attempt's process has left.

    Attributes:
        leaves_intents: it may hold a key, since the store did not take what became of a run.
    """

    code: int
    leaves_intents: bool = True


def say(told: int) -> None:
    """The exit code of this process will be ours. User code may have closed every file: then the journal is asked."""
    with contextlib.suppress(OSError):
        os.write(told, b"i" if open_intents else b"!")


def as_told(run_id: RunId, number: int, code: int, told: int) -> End:
    """``code``, unless it means something that is not so: user code has ended the process, as ``os._exit`` does. Then
    what the journal says."""
    with contextlib.suppress(BlockingIOError):
        if said := os.read(told, 1):
            return End(code, leaves_intents=said == b"i")
    if code not in set(ExitCode):
        return End(code)
    recorded = _recorded(run_id, number)
    if recorded is not None:
        return End(recorded)
    logger.error(
        "Flow run %s: its process was ended with exit code %d before the end of the run was recorded; go on with: "
        "kapstan flow-run resume %s",
        run_id,
        code,
        run_id,
    )
    return End(ExitCode.NOT_RECORDED)


def _recorded(run_id: RunId, number: int) -> ExitCode | None:
    """The exit code for the end that attempt ``number`` has in its journal; None: it has none, or none can be read."""
    backend = backends.current()
    try:
        last = read_journal(backend.store, backend.codec, run_id).last
    except (KapstanError, OSError):
        return None
    if last is None or last.end is None or last.number != number:
        return None
    if last.end.end is AttemptOutcome.COMPLETED:
        return ExitCode.DONE
    return ExitCode.HANDED_BACK if last.end.end is AttemptOutcome.HANDED_BACK else ExitCode.FAILED


def await_end(child: int) -> int:
    """The exit code of ``child`` (negative: the signal); what this process has adopted meanwhile is buried.

    It sleeps on a pipe that every signal writes to: one that comes just before ``waitpid`` would be handled at its end.
    """
    bell, ring = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(ring, False)
    signal.signal(signal.SIGCHLD, lambda _got, _frame: None)  # without a handler it does not ring
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            select.select([bell], [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(bell, 4096)
