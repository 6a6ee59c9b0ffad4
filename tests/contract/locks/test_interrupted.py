"""A lock that is interrupted at any line, of taking it and of giving it back, is free afterwards."""

from __future__ import annotations

import contextlib

from tests.contract.locks.program import Program

from kapstan.locking import LockManager


def test_a_lock_that_is_interrupted_anywhere_is_free_afterwards(manager: LockManager, key: str) -> None:
    with contextlib.closing(Program(manager)) as other:
        assert int(other.ask("interrupt_everywhere", key, within=90)) > 100
