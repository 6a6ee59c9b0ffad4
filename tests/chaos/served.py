"""The tasks of the chaos runs, one for each class, whose effects are recorded outside of everything they run on.

A line in the file ``EFFECTS`` for each step of a body: ``began``, ``effect`` (on the disk before the body goes on),
``left``. The effect of the transactional task is a row in one of the databases in the folder ``LEDGERS``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import kapstan.effects
from kapstan import task
from kapstan.cache_policies import INPUTS
from kapstan.context import get_run_context
from kapstan.ids import new_nonce

LEDGERS = 4
"""Databases: a process that is stopped in a transaction holds up a part of the others."""


def body(order: str, before: float, after: float) -> str:
    """Work, do the effect, work; a word that names this very execution."""
    name = _begin(order)
    time.sleep(before)
    _write("effect", order, name, sync=True)
    time.sleep(after)
    _write("left", order, name)
    return name


def _begin(order: str) -> str:
    name = new_nonce()
    _write("began", order, name)
    return name


def _write(word: str, order: str, name: str, *, sync: bool = False) -> None:
    run = get_run_context()
    line = f"{word} {order} {run.idempotency_key or '-'} {run.fencing_token or 0} {os.getpid()} {name}\n"
    descriptor = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


pure = task(body, name="chaos-pure")
cached = task(body, name="chaos-cached", cache_policy=INPUTS)
idempotent = task(body, name="chaos-idempotent", effect="idempotent", cache_policy=INPUTS)
at_most_once = task(body, name="chaos-at-most-once", effect="at_most_once", cache_policy=INPUTS, effect_horizon=0.0)


@task(name="chaos-transactional", effect="transactional", cache_policy=INPUTS)
def transactional(order: str, before: float, after: float) -> str:
    name = _begin(order)
    time.sleep(before)
    with contextlib.closing(open_ledger(order)) as ledger, kapstan.effects.inbox(ledger) as entry:
        if not entry.is_repeat:
            ledger.execute("INSERT INTO effects VALUES (?, ?)", (order, name))
            entry.result = name
    time.sleep(after)
    _write("left", order, name)
    return entry.result


def open_ledger(order: str) -> sqlite3.Connection:
    """The database of this order."""
    return ledger(int(order.rpartition("-")[2]) % LEDGERS)


def ledger(number: int) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(os.environ["LEDGERS"]) / f"{number}.sqlite", timeout=60)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def make_ledgers() -> None:
    """Called once, before the first run."""
    for number in range(LEDGERS):
        with contextlib.closing(ledger(number)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE effects (order_name TEXT, by TEXT)")
            kapstan.effects.create_inbox(connection)
            connection.commit()


KINDS = {
    "pure": pure,
    "cached": cached,
    "idempotent": idempotent,
    "at_most_once": at_most_once,
    "transactional": transactional,
}
"""By name: the four classes; of ``pure``, without a key and with one."""
ONCE = ("idempotent", "at_most_once", "transactional")
"""Those with an effect."""
