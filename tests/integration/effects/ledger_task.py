"""A task of the class ``transactional`` whose effect is in SQLite; it dies right after its transaction when told to."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

from kapstan import effects, task
from kapstan.cache_policies import INPUTS


@task(cache_policy=INPUTS, effect="transactional")
def charge_in_the_ledger(database: str, order: str, dies_once: str) -> dict[str, Any]:
    connection = sqlite3.connect(database, timeout=30)
    try:
        with effects.inbox(connection) as entry:
            if not entry.is_repeat:
                connection.execute("INSERT INTO ledger VALUES (?, 100)", (order,))
                entry.result = {"order": order, "token": entry.token}
    finally:
        connection.close()
    if dies_once and not Path(dies_once).exists():
        Path(dies_once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {**entry.result, "repeat": entry.is_repeat}
