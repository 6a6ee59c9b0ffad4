"""Kills a process at every line around the transaction of ``effects.inbox``: ``... killed KIND PLACE`` prints what came
of it.

Each point is a forked process that does the work and kills itself there; then the work is done again.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from kapstan import effects

_TRACED = ("kapstan/effects.py", "psycopg/transaction.py", "effects/killed.py")


def work(kind: str, place: str, key: str) -> Any:
    from tests.integration.effects.conftest import connect

    connection = connect(kind, place)
    try:
        return charge(connection, "?" if kind == "sqlite" else "%s", key)
    finally:
        connection.close()


def charge(connection: Any, mark: str, key: str) -> Any:
    with effects.inbox(connection, key=key) as entry:
        if not entry.is_repeat:
            connection.execute(f"INSERT INTO ledger VALUES ({mark}, 100)", (key,))
            entry.result = {"charged": 100, "by": key}
    return entry.result


class Killer:
    """Traces the lines of ``charge`` and below; at the ``at``-th the process is killed. -1: only counts."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith(_TRACED):
            return None
        if event in ("line", "return"):
            self.lines += 1
            if self.lines == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def attempt(kind: str, place: str, key: str, at: int) -> bool:
    """Whether the process was killed."""
    child = os.fork()
    if child == 0:
        sys.settrace(Killer(at))
        work(kind, place, key)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    kind, place = sys.argv[1:]
    work(kind, place, "first")  # imports what it needs
    killer = Killer(-1)
    sys.settrace(killer)
    work(kind, place, "counted")
    sys.settrace(None)
    points = killed = wrong = done_before = 0
    for at in range(1, killer.lines + 1):
        points, key = points + 1, f"key-{at}"
        killed += attempt(kind, place, key, at)
        done_before += charges(kind, place, key)
        answers = [work(kind, place, key) for _ in range(2)]
        if charges(kind, place, key) != 1 or answers != [{"charged": 100, "by": key}] * 2:
            wrong += 1
            print("wrong at", at, charges(kind, place, key), answers)
    print(f"points={points} killed={killed} done_before_the_kill={done_before} wrong={wrong}")


def charges(kind: str, place: str, key: str) -> int:
    from tests.integration.effects.conftest import Database

    database = object.__new__(Database)
    database.kind, database.place, database._open = kind, place, []
    try:
        return database.charges(key)
    finally:
        database.close()


if __name__ == "__main__":
    main()
