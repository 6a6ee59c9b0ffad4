"""Takes back what waits behind a run that holds its process, from outside of that process.

Child and supervisor share two words of memory: the child writes which run it begins and then reads whether its batch
was recalled; the supervisor writes that it is recalled and then reads which run executes. If either could read before
its own write is seen, a run would be begun *and* handed back. So the supervisor has the kernel order the memory of both
(``membarrier``), and it takes back only what it saw claimed while one and the same run executed, by token: a word that
comes late, or twice, meets other tokens and takes nothing.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time

from kapstan.ports import Session
from kapstan.worker.board import Slot

_SYSCALL = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(platform.machine())
_EXPEDITED, _REGISTER = 1 << 1, 1 << 2  # MEMBARRIER_CMD_GLOBAL_EXPEDITED and its registration
_SETTLED = 0.001  # seconds, far more than a processor keeps a write to itself


def recall(slot: Slot, lane: int, session: Session) -> bool:
    """Give back what the child of ``lane`` holds behind the run that it executes; it will begin none of that.

    False: it executes nothing, or went on to another run meanwhile. Then it sees for itself that it is recalled.
    """
    before = slot.executing()
    slot.recalled = True
    if before is None:
        return False
    order_memory()
    claims = [(run_id, token) for holder, run_id, token in session.claims() if holder == lane]
    kept = slot.kept()
    if slot.executing() != before or not slot.recalled:
        return False
    session.take_back([claim for claim in claims if claim[0] not in kept])
    return True


def order_memory() -> None:
    """Return when every child that is registered sees what was written before, and what it wrote is seen here."""
    if not _membarrier(_EXPEDITED):
        time.sleep(_SETTLED)


def register() -> None:
    """Let ``order_memory`` of the supervisor reach this process."""
    _membarrier(_REGISTER)


def _membarrier(command: int) -> bool:
    if sys.platform != "linux" or _SYSCALL is None:
        return False
    return ctypes.CDLL(None).syscall(_SYSCALL, command, 0) == 0
