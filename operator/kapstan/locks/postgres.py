"""Locks in PostgreSQL: a row for each key that is held or waited for, a session for each process that uses them.

The session holds an advisory lock in the name of its client. The server gives that up when the connection ends: the
kernels of both machines see to it (keepalive), not any code of the holder. As a connection may also be cut, a client
whose session is gone keeps its locks for a lease, in which it connects again; not if its process has ended.
Waiters are rung by NOTIFY. Transaction pooling (PgBouncer) has no sessions: connect past it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kapstan.errors import ConfigurationError, LockUnavailable, LockUnreadable
from kapstan.locks import postgres_schema as sql
from kapstan.locks.bell import Bell
from kapstan.locks.processes import said_for_people
from kapstan.locks.state import Change, KeyState, digest
from kapstan.ports import LockHolder, Place, Wait

if TYPE_CHECKING:
    from psycopg import Connection
T = TypeVar("T")
_SESSIONS = 4  # connections of a process that make changes
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "connect_timeout": 10,
}


class PostgresTable:
    """See ``ports.LockTable``.

    Args:
        namespace: whose locks these are; two namespaces share a database but no lock.
        patience: seconds for which a call is repeated while the server is away.

    Raises:
        ConfigurationError: psycopg is not installed.
    """

    def __init__(self, dsn: str, namespace: str, patience: float) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigurationError(
                f"PostgresLockManager needs psycopg ({error}): install kapstan[postgres]"
            ) from None
        self._psycopg = psycopg
        idled = psycopg.errors.IdleInTransactionSessionTimeout
        self._passing = (psycopg.OperationalError, psycopg.InterfaceError, idled, _Late)
        self._dsn = dsn
        self._namespace = namespace
        self._patience = patience
        self._idle: deque[Connection[Any]] = deque()
        self._places = threading.Semaphore(_SESSIONS)
        self._client = self._about = ""
        self._generation = 1  # of the connections; a change by an older one that comes late is refused
        self._ring: Callable[[str | None], bool] = _nobody
        self._bell = Bell()
        self._closed = False
        self._ear: threading.Thread | None = None
        self._open: weakref.WeakSet[Connection[Any]] = weakref.WeakSet()
        _tables.add(self)

    def begin(self, client: str, about: str, ring: Callable[[str | None], bool], patience: float | None = None) -> None:
        self._client, self._about, self._ring = client, about, ring
        session = self._patiently(self._appear, patience)
        ear = threading.Thread(target=self._listen, args=(session,), name="kapstan-locks", daemon=True)
        try:
            ear.start()
        except BaseException:
            session.close()
            raise
        self._ear = ear

    def ask(self, wait: Wait, stay: bool, silent: Sequence[tuple[str, str]], patience: float | None = None) -> Place:
        for client, beat in silent:
            if beat == sql.GONE:
                self._end_if_gone(client)

        def act(cursor: Any, change: Change) -> Place:
            self._be_in_time(cursor)
            place = change.ask(wait, stay)
            if place.token is not None:
                return place
            about = cursor.execute(sql.ABOUT, (place.client,)).fetchone()
            beat = sql.GONE if self._is_absent(cursor, place.client) else str(time.monotonic())
            return place._replace(about=about[0] if about else "", beat=beat)

        return self._change(wait.key, lambda cursor, change, _: act(cursor, change), patience)

    def give_up(self, wait: Wait, patience: float | None = None) -> None:
        self._leave(digest(self._namespace, wait.key), wait, patience)

    def _leave(self, name: str, wait: Wait, patience: float | None = None) -> None:
        def act(cursor: Any, change: Change, _: KeyState) -> None:
            self._be_in_time(cursor)
            change.give_up(wait)

        self._change_named(name, wait.key, act, patience)

    def release(self, key: str, holder: str, token: int | None, patience: float | None = None) -> bool:
        tries = 0

        def act(cursor: Any, change: Change, state: KeyState) -> bool:
            nonlocal tries
            tries += 1
            held = state.hold.token if state.hold is not None else None
            if change.release(holder, token):
                cursor.execute(sql.NOTE_RELEASE, (held, self._client))
                return True
            if tries == 1 or token is None:
                return False
            return cursor.execute(sql.RELEASED, (self._client,)).fetchone() == (token,)  # the answer was lost

        return self._change(key, act, patience)

    def holder(self, key: str) -> LockHolder | None:
        def look(cursor: Any, _: Change, state: KeyState) -> LockHolder | None:
            if (hold := state.hold) is None:
                return None
            about = cursor.execute(sql.ABOUT, (hold.client,)).fetchone()
            process = said_for_people(about[0] if about else "")
            return LockHolder(hold.holder, hold.token, hold.since, process, len(state.line))

        return self._change(key, look)

    def end_client(self, client: str) -> None:
        def end(cursor: Any) -> list[str]:
            cursor.execute(sql.FORGET, (client,))
            return [row[0] for row in cursor.execute(sql.KEYS_OF, (f"%{client}%",)).fetchall()]

        for name in self._transaction(end):
            self._change_named(name, "", lambda _, change, __: change.end_client(client))

    def close(self) -> None:
        self._closed = True
        self._bell.ring()
        if self._ear is not None:
            self._ear.join()
            with contextlib.suppress(LockUnavailable):
                self.end_client(self._client)
        while self._idle:
            self._idle.pop().close()
        self._bell.close()

    # ------------------------------------------------------------------ one change

    def _change(self, key: str, act: Callable[[Any, Change, KeyState], T], patience: float | None = None) -> T:
        return self._change_named(digest(self._namespace, key), key, act, patience)

    def _change_named(
        self, name: str, key: str, act: Callable[[Any, Change, KeyState], T], patience: float | None = None
    ) -> T:
        def change(cursor: Any) -> T:
            cursor.execute(sql.ALONE, (str(round(1000 * self._seconds(patience))), _number(name)))
            row = cursor.execute(sql.STATE, (name,)).fetchone()
            before = row[0] if row else ""
            state = KeyState.from_text(before) if before else KeyState(key)
            (now,) = cursor.execute(sql.NOW).fetchone()
            change = Change(
                state,
                now,
                now,
                lambda: cursor.execute(sql.MINT).fetchone()[0],
                lambda client: cursor.execute(sql.ABOUT, (client,)).fetchone() is None,
                lambda client: (
                    client != self._client and cursor.execute(sql.IS_ABSENT, (_number(client),)).fetchone()[0]
                ),
            )
            answer = act(cursor, change, state)
            if state.empty:
                if before:
                    cursor.execute(sql.DROP, (name,))
            elif (after := state.to_text()) != before:
                cursor.execute(sql.KEEP, (name, after))
            for client, number in change.rings:
                cursor.execute(sql.NOTIFY, (_channel(client), f"{number} {name}"))
            return answer

        return self._transaction(change, patience)

    def _be_in_time(self, cursor: Any) -> None:
        """Called in a transaction: this client is known, and has not called again on newer connections."""
        if cursor.execute(sql.IN_TIME, (self._generation, self._client, self._generation)).fetchone() is not None:
            return
        if cursor.execute(sql.ABOUT, (self._client,)).fetchone() is None:  # it was silent for a lease
            cursor.execute(sql.REMEMBER, (self._client, self._about, self._generation))
            return
        raise _Late

    def _end_if_gone(self, client: str) -> None:
        if self._transaction(lambda cursor: self._is_absent(cursor, client)):
            self.end_client(client)

    @staticmethod
    def _is_absent(cursor: Any, client: str) -> bool:
        """Whether no session is there for ``client``."""
        return cursor.execute(sql.IS_ABSENT, (_number(client),)).fetchone()[0]

    def _transaction(self, act: Callable[[Any], T], patience: float | None = None) -> T:
        def attempt() -> T:
            with self._connection() as connection, connection.transaction(), connection.cursor() as cursor:
                return act(cursor)

        return self._patiently(attempt, patience)

    def _seconds(self, patience: float | None) -> float:
        return self._patience if patience is None else min(self._patience, max(patience, 1.0))

    def _patiently(self, attempt: Callable[[], T], patience: float | None = None) -> T:
        deadline = time.monotonic() + self._seconds(patience)
        pause = 0.02
        while True:
            try:
                return attempt()
            except self._passing as error:
                self._generation += 1
                if self._closed or time.monotonic() + pause > deadline:
                    raise LockUnavailable(f"PostgreSQL keeps no locks now: {_words(error)}") from error
            except self._psycopg.Error as error:
                raise LockUnavailable(f"PostgreSQL refused to keep a lock: {_words(error)}") from error
            except ValueError as error:
                raise LockUnreadable(f"The row of a lock in kapstan_locks cannot be read: {error}") from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(1.0, pause * 2)

    @contextlib.contextmanager
    def _connection(self) -> Generator[Connection[Any]]:
        with self._places:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                stale, self._idle = self._idle, deque()
                for other in stale:
                    other.close()
                raise
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def _connect(self) -> Connection[Any]:
        made = self._psycopg.connect(self._dsn, autocommit=True, application_name="kapstan-locks", **_KEEPALIVE)
        self._open.add(made)
        made.execute(sql.NO_IDLING)
        return made

    def abandon(self) -> None:
        """In a forked process: let go of the parent's connections without a word, so that they end with the parent."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for connection in list(self._open):
            with contextlib.suppress(OSError, self._psycopg.Error):
                os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)

    # ------------------------------------------------------------------ the session that shows that this process lives

    def _appear(self) -> Connection[Any]:
        session = self._connect()
        try:
            sql.make_tables(session)
            for name in ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 3"):
                session.execute(f"SET {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
            session.execute(sql.APPEAR, (_number(self._client),))
            session.execute(f'LISTEN "{_channel(self._client)}"')  # pyright: ignore[reportArgumentType, reportCallIssue]
            session.execute(sql.REMEMBER, (self._client, self._about, self._generation))
        except BaseException:
            session.close()
            raise
        return session

    def _listen(self, session: Connection[Any]) -> None:
        while not self._closed:
            try:
                with session:
                    self._say(None)
                    poll = select.poll()  # select() knows no descriptor above 1023
                    for handle in (session.fileno(), self._bell.reader):
                        poll.register(handle, select.POLLIN)
                    while not self._closed:
                        poll.poll()
                        for said in session.notifies(timeout=0):
                            self._say(said.payload)
            except self._psycopg.Error:
                pass
            while not self._closed:
                try:
                    session = self._patiently(self._appear)
                    break
                except LockUnavailable:
                    time.sleep(0.5)  # a server that refuses at once is not asked a hundred times a second
        session.close()

    def _say(self, message: str | None) -> None:
        number, _, name = (message or "").partition(" ")
        with contextlib.suppress(LockUnavailable):
            if not self._ring(number or None) and name:  # granted to a call that is over: it must not stay
                self._leave(name, Wait("", "", self._client, number))


_tables: weakref.WeakSet[PostgresTable] = weakref.WeakSet()


def _abandon_all() -> None:
    for table in list(_tables):
        table.abandon()


os.register_at_fork(after_in_child=_abandon_all)


class _Late(Exception):
    """A change of older connections."""


def _number(text: str) -> int:
    """What an advisory lock of that name is called."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def _channel(client: str) -> str:
    return f"kapstan_lock_{client}"


def _words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _nobody(_: str | None) -> bool:
    """Rings before ``begin`` reach nobody."""
    return True
