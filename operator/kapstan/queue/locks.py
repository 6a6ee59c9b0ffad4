"""Locks in Redis: one script per change, a connection that listens, a keeper beside this process (``keeper``).

Made by ``backend``. A client's beat is counted in Redis by its keeper; those who wait decide by their own clocks that
it has stopped. So no lock ends by Redis' clock but one with a ``hold_timeout``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import hiredis

from kapstan.errors import BackendError, KapstanError, LockUnavailable, LockUnreadable
from kapstan.ports import LockHolder, Place, Wait
from kapstan.queue import scripts
from kapstan.queue.dialer import Dialer
from kapstan.queue.keeper import Keeper
from kapstan.queue.keys import prefix_of
from kapstan.queue.record import check_format
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack
from kapstan.settings import Settings

log = logging.getLogger("kapstan.queue")
_SHOWN = 200  # characters of a key that are kept for people


class RedisTable:
    """See ``ports.LockTable``.

    Args:
        process: says in few words where a client lives, from what it said about itself.
    """

    def __init__(self, settings: Settings, process: Callable[[str], str]) -> None:
        self._settings = settings
        self._prefix = prefix_of(settings.namespace)
        self._process = process
        self._dialer = Dialer(settings)
        self._idle: deque[Wire] = deque()
        self._generation = 1  # of the connections; a command of an older one that comes late is refused
        self._client = self._about = ""
        self._closed = False
        self._keeper: Keeper | None = None
        self._ear: _Ear | None = None

    def begin(self, client: str, about: str, ring: Callable[[str | None], bool], patience: float | None = None) -> None:
        self._client, self._about = client, about
        self._call(scripts.lock_renew.pack(self._prefix, client, about, 0), patience)
        keeper = Keeper(self._settings, client, about)

        def rung(message: str | None) -> None:
            number, _, digest = (message or "").partition(" ")
            if not ring(number or None) and digest:  # granted to a call that is over: it must not stay
                self._leave(digest, client, number, 0.0)

        try:
            self._ear = _Ear(self._dialer, f"{self._prefix}lc:{client}", rung, self._seconds(patience))
        except BaseException:
            keeper.close()
            raise
        self._keeper = keeper

    def ask(self, wait: Wait, stay: bool, silent: Sequence[tuple[str, str]], patience: float | None = None) -> Place:
        hold = "" if wait.hold is None else max(1, round(wait.hold * 1000))
        digest, rest = _digest(wait.key), [part for each in silent for part in each]
        if self._keeper is not None:  # nothing is held without one
            self._keeper.confirm()
        while True:
            reply = self._call(
                lambda _: scripts.lock_ask.pack(
                    self._prefix,
                    digest,
                    wait.key[:_SHOWN],
                    wait.client,
                    self._generation,
                    wait.number,
                    hold,
                    wait.holder,
                    int(wait.look),
                    int(stay),
                    *rest,
                ),
                patience,
            )
            if reply[1] == b"GONE":  # Redis lost it, or it was silent for a lease
                if self._closed:
                    raise LockUnavailable("the locks of this process were closed meanwhile")
                self._call(scripts.lock_renew.pack(self._prefix, self._client, self._about, 0))
            elif reply[1] != b"LATE":
                break
        if reply[1] == b"OK":
            return Place(int(reply[2]))
        _, _, client, about, beat, left, ahead = reply
        return Place(None, _text(client), _text(about), _text(beat), float(left) / 1000 if left else None, int(ahead))

    def give_up(self, wait: Wait, patience: float | None = None) -> None:
        self._leave(_digest(wait.key), wait.client, wait.number, patience)

    def _leave(self, digest: str, client: str, number: str, patience: float | None = None) -> None:
        late = True
        while late:
            reply = self._call(
                lambda _: scripts.lock_leave.pack(self._prefix, digest, client, self._generation, number), patience
            )
            late = reply[1] == b"LATE"

    def release(self, key: str, holder: str, token: int | None, patience: float | None = None) -> bool:
        digest, shown = _digest(key), "" if token is None else str(token)
        reply = self._call(
            lambda repeated: scripts.lock_release.pack(
                self._prefix, digest, holder, shown, self._client, int(repeated)
            ),
            patience,
        )
        return bool(reply[1])

    def holder(self, key: str) -> LockHolder | None:
        found = self._call(scripts.lock_holder.pack(self._prefix, _digest(key)))[1]
        if not found:
            return None
        holder, token, since, about, waiting = found
        return LockHolder(_text(holder), int(token), int(since) / 1000, self._process(_text(about)), waiting)

    def end_client(self, client: str) -> None:
        self._call(scripts.lock_end.pack(self._prefix, client))

    def close(self) -> None:
        self._closed = True
        if self._ear is not None:
            self._ear.close()
        if self._keeper is not None:
            self._keeper.close()
        while self._idle:
            self._idle.pop().close()

    def _call(self, packed: bytes | Callable[[bool], bytes], patience: float | None = None) -> list[Any]:
        """The reply of one script. ``packed``: may be made anew for each try, which is told whether it is a repeat."""
        tries = 0

        def attempt() -> Any:
            nonlocal tries
            tries += 1
            try:
                wire = self._idle.pop()
            except IndexError:
                wire = self._dialer.dial()
            try:
                reply = wire.call(packed if isinstance(packed, bytes) else packed(tries > 1))
            except BaseException:
                self._drop(wire)
                raise
            if self._closed:
                wire.close()
            else:
                self._idle.append(wire)
            return reply

        with _said_of_locks():
            reply = self._dialer.patiently(attempt, self._seconds(patience))
        check_format(reply)
        return reply

    def _seconds(self, patience: float | None) -> float:
        most = self._settings.redis_retry_seconds
        return most if patience is None else min(most, max(patience, 1.0))

    def _drop(self, wire: Wire) -> None:
        self._generation += 1
        wire.close()
        stale, self._idle = self._idle, deque()
        for other in stale:
            other.close()


class _Ear:
    """A thread that hears what is said to a client, on a connection of its own; ``rung(None)``: something may have been
    missed.

    Args:
        patience: seconds for which Redis may be away at the first subscription.

    Raises:
        ConfigurationError: this user may not subscribe.
        LockUnavailable: Redis does not answer.
    """

    def __init__(self, dialer: Dialer, channel: str, rung: Callable[[str | None], None], patience: float) -> None:
        self._dialer = dialer
        self._channel = channel
        self._rung = rung
        self._closed = False
        with _said_of_locks():
            first = dialer.patiently(self._subscribed, patience)
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, args=(first,), name="kapstan-locks", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            first.close()
            self._wake.close()
            raise

    def close(self) -> None:
        self._closed = True
        self._wake.ring()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._wake.close()

    def _run(self, wire: Wire) -> None:
        while True:
            try:
                self._say(None)
                while not self._closed:
                    self._take(wire.receive(None, self._wake))
            except ConnectionLost:
                pass
            finally:
                wire.close()
            again = self._again()
            if again is None:
                return
            wire = again

    def _again(self) -> Wire | None:
        """The next connection; None: closed."""
        refused = ""
        while not self._closed:
            try:
                return self._dialer.patiently(self._subscribed, None, lambda: self._closed)
            except KapstanError as error:  # a user whose rights were taken, a Redis of another version
                if self._closed:
                    return None
                if str(error) != refused:
                    refused = str(error)
                    log.warning("Nobody hears now of locks that become free, who waits looks again: %s", error)
                time.sleep(1.0)
        return None

    def _subscribed(self) -> Wire:
        wire = self._dialer.dial()
        try:
            wire.send(pack("SUBSCRIBE", self._channel) + pack("PING"))
            wire.read()
        except BaseException:
            wire.close()
            raise
        return wire

    def _take(self, push: Any) -> None:
        if type(push) is hiredis.PushNotification and push[0] == b"message":
            self._say(cast("list[bytes]", push)[2].decode(errors="replace"))

    def _say(self, message: str | None) -> None:
        try:
            self._rung(message)
        except LockUnavailable:
            return  # it is said anew when Redis is back


@contextlib.contextmanager
def _said_of_locks() -> Generator[None]:
    """What Redis refuses, as those hear it who want a lock."""
    try:
        yield
    except BackendError as error:
        kind = LockUnreadable if "UNREADABLE" in str(error) else LockUnavailable
        raise kind(f"No lock can be had or checked now: {error}") from error


def _text(said: bytes) -> str:
    """What a client said of itself, or another program wrote there."""
    return said.decode(errors="replace")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]
