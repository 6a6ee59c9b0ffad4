"""The tables of locks in PostgreSQL, and every statement about them."""

from __future__ import annotations

from typing import Any

GONE = "gone"
"""The beat of a client whose session is not there."""

_TABLES = """
CREATE TABLE IF NOT EXISTS kapstan_locks (digest text PRIMARY KEY, state text NOT NULL);
CREATE TABLE IF NOT EXISTS kapstan_lock_clients (
    client text PRIMARY KEY, about text NOT NULL, generation bigint NOT NULL, released bigint
);
CREATE SEQUENCE IF NOT EXISTS kapstan_lock_tokens;
"""
_MAKING = 0x6B61707374616E  # "kapstan": whoever makes the tables is alone

ALONE = "SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s)"
APPEAR = "SELECT pg_advisory_lock_shared(%s)"
IS_ABSENT = "SELECT pg_try_advisory_xact_lock(%s)"
NO_IDLING = "SET idle_in_transaction_session_timeout = 10000"
"""A process that was stopped in the middle of a change: the others go on after ten seconds, and it makes it anew."""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
STATE = "SELECT state FROM kapstan_locks WHERE digest = %s"
KEEP = """INSERT INTO kapstan_locks (digest, state) VALUES (%s, %s)
    ON CONFLICT (digest) DO UPDATE SET state = excluded.state"""
DROP = "DELETE FROM kapstan_locks WHERE digest = %s"
MINT = "SELECT nextval('kapstan_lock_tokens')"
NOTIFY = "SELECT pg_notify(%s, %s)"
ABOUT = "SELECT about FROM kapstan_lock_clients WHERE client = %s"
REMEMBER = """INSERT INTO kapstan_lock_clients (client, about, generation) VALUES (%s, %s, %s)
    ON CONFLICT (client) DO NOTHING"""
FORGET = "DELETE FROM kapstan_lock_clients WHERE client = %s"
IN_TIME = """UPDATE kapstan_lock_clients SET generation = greatest(generation, %s)
    WHERE client = %s AND generation <= %s RETURNING 1"""
NOTE_RELEASE = "UPDATE kapstan_lock_clients SET released = %s WHERE client = %s"
RELEASED = "SELECT released FROM kapstan_lock_clients WHERE client = %s"
KEYS_OF = "SELECT digest FROM kapstan_locks WHERE state LIKE %s"


def make_tables(session: Any) -> None:
    """Make what is not there; a role that may not create finds it made by one that may."""
    (there,) = session.execute("SELECT to_regclass('kapstan_lock_tokens') IS NOT NULL").fetchone()
    if there:
        return
    with session.transaction():
        session.execute(ALONE, ("0", _MAKING))
        session.execute(_TABLES)
