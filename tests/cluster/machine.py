"""One node of our own at a time on a machine, since its link and its addresses are fixed: the next one waits.

The lock is inherited by the node's first process. So it ends with the node, however that ends, and outlives a run that
was killed. The file names the state directory of the node that has it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.errors import ClusterUnavailable
from tests.cluster.state import State

LOCK = Path("/run/kapstan-test-node.lock")
PATIENCE = 25 * 60.0
"""Seconds: a suite that runs on this machine has ended by then."""


@contextmanager
def turn(
    state: State,
    note: Callable[[str], None],
    end: Callable[[State], None],
    *,
    lock: Path = LOCK,
    patience: float = PATIENCE,
    pause: float = 1,
) -> Generator[int]:
    """Wait until no other node runs, then yield the descriptor of the lock, for the node to inherit.

    *end* ends a node that a killed run has left. Raises ClusterUnavailable after *patience* seconds, and at once where
    the other node was brought up by a person.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline, told = time.monotonic() + patience, False
        while not _taken(descriptor):
            other = os.pread(descriptor, 4096, 0).decode()
            if other:
                _end_if_left(State(Path(other)), note, end)
            if not told:
                note(f"another node runs on this machine: waiting (its state: {other or 'not yet told'})")
                told = True
            if time.monotonic() > deadline:
                raise ClusterUnavailable(f"another node has run on this machine for {patience:g} s; its state: {other}")
            time.sleep(pause)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, os.fsencode(state.root), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_if_left(other: State, note: Callable[[str], None], end: Callable[[State], None]) -> None:
    with other.locked(note):  # so nobody is just bringing it up
        record = other.record()
        if record is None or not record.ready or other.in_use():
            return
        if record.kept:
            raise ClusterUnavailable(
                f"another node runs on this machine until somebody takes it down: KAPSTAN_TEST_STATE={other.root} "
                "make cluster-down"
            )
        note(f"the run that had {other.root} is dead; its node is ended")
        end(other)
