"""A session: the lease under which the lanes of one worker process hold runs, ``ports.Session`` on Redis.

Made by ``RedisQueue.open_session`` and kept by the supervisor, which runs no user code. It raises the era through the
register outside Redis when the server was restarted, and blocks on a subscription between beats.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId, Token
from kapstan.ports import EraRegister, Renewed
from kapstan.queue import scripts
from kapstan.queue.dialer import Dialer, connection_number
from kapstan.queue.silence import Silence
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack
from kapstan.run_limits import Limits

Call = Callable[[bytes], Any]
_ENDED_A_CALL = 3  # sessions that one renewal ends: each may hold 1,000 runs
_MOST_CALLS = 20


class _Answer(NamedTuple):
    """What one call of ``renew`` said of the queue."""

    alive: bool
    drain: bool
    due: int
    cancelled: list[RunId]
    silent: list[tuple[str, int, int]]
    """Sessions that have not renewed since this one did before: name, number of the last renewal, lease in ms."""


def _told(limits: Limits) -> dict[str, int | str]:
    """As ``lua/turns.lua`` reads them."""
    told: dict[str, int | str] = {}
    for slots, rate, letters in (
        (limits.concurrency, limits.rate, "cr"),
        (limits.group_concurrency, limits.group_rate, "gh"),
    ):
        if slots is not None:
            told[letters[0]] = slots
        if rate is not None:
            told[letters[1]] = "{:.6f} {:.6f}".format(*rate.pace)
    return told


class RedisSession:
    """See ``ports.Session``."""

    def __init__(
        self,
        dialer: Dialer,
        call: Call,
        register: EraRegister,
        prefix: str,
        name: str,
        *,
        worker: str,
        routes: Sequence[str],
        lanes: int,
        limits: Mapping[str, Limits],
    ) -> None:
        self._dialer = dialer
        self._call = call
        self._register = register
        self._prefix = prefix
        self._name = name
        self._routes = tuple(routes)
        settings = dialer.settings
        info = {"worker": worker, "routes": list(routes), "lanes": lanes}
        info |= {"host": socket.gethostname(), "lease": round(settings.lease_seconds * 1000)}
        told = {task: found for task, each in limits.items() if (found := _told(each))}
        self._info = json.dumps(info | {"limits": told}).ljust(80)
        self._silence = Silence(settings.beat_seconds, settings.lease_seconds)
        self._ttl = settings.result_ttl_seconds
        self._max_crashes = settings.max_crashes
        self._wake = Wake()
        self._wire: Wire | None = None
        self._era = 0
        try:
            self._renew(opening=1)
            dialer.patiently(self._subscribe, settings.redis_retry_seconds)
        except BaseException:
            self._wake.close()
            raise

    @property
    def name(self) -> str:
        return self._name

    def renew(self, held: Mapping[RunId, Token] | None = None) -> Renewed:
        answer = self._renew(opening=0)
        if held is not None:  # lanes go on claiming meanwhile, in the era of now
            shown = [(run_id, token) for _, run_id, token in self.claims() if token.era < self._era]
            self.take_back([(run_id, token) for run_id, token in shown if held.get(run_id) != token])
        return answer

    def _renew(self, opening: int) -> Renewed:
        """Renew, and once more as long as there are sessions to end that were silent for their lease."""
        first, ended = self._renewal(opening, [])
        last, silent = first, list[tuple[str, int, float]]()
        for _ in range(_MOST_CALLS):
            silent = [(name, number, lease / 1000 - self._silence.of(number)) for name, number, lease in last.silent]
            dead = [(name, number) for name, number, left in silent if left <= 0]
            if not dead:
                break
            last, more = self._renewal(0, dead[:_ENDED_A_CALL])
            ended += more
        due = [max(0.0, left) for _, _, left in silent]
        if last.due >= 0:
            due.append(last.due / 1000)
        return Renewed(
            alive=first.alive,
            drain=last.drain,
            cancelled=last.cancelled,
            reaped=ended,
            next_due=min(due, default=None),
        )

    def _renewal(self, opening: int, dead: Sequence[tuple[str, int]]) -> tuple[_Answer, list[str]]:
        rest = [part for each in dead for part in each]
        packed = scripts.renew.pack(
            self._prefix,
            self._name,
            self._info,
            opening,
            self._ttl,
            self._silence.last,
            len(dead),
            *rest,
            *self._routes,
        )
        while (reply := self._call(packed))[1] == b"ERA":
            self._raise_era(reply[2].decode(), int(reply[3]))
        _, _, alive, draining, due, cancelled, ended, number, era, silent = reply
        self._silence.answered(time.monotonic(), number, era)
        self._era = int(era)
        others = [
            (silent[at].decode(), int(float(silent[at + 1])), int(silent[at + 2])) for at in range(0, len(silent), 3)
        ]
        answer = _Answer(bool(alive), bool(draining), due, [run_id.decode() for run_id in cancelled], others)
        return answer, [name.decode() for name in ended]

    def _raise_era(self, run_id: str, stored: int) -> None:
        """Let the start ``run_id`` of the server mint tokens: an era above every one that was ever used, which the
        register gave to this start alone.

        Raises:
            StoreUnavailable: the register's store does not answer.
        """
        while True:
            era = self._register.raise_for(run_id, stored)
            _, answer, in_force, now = self._call(scripts.set_era.pack(self._prefix, f"{era:06d}", run_id))
            if answer == b"OK":
                return
            run_id, stored = now.decode(), int(in_force)

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if self._wire is None:
                try:
                    self._dialer.patiently(self._subscribe, left, self._rung)
                except QueueUnavailable:
                    self._wake.clear()
                    return False
                return True  # whatever was said while nobody listened
            try:
                push = self._wire.receive(left, self._wake)
            except ConnectionLost:
                self._wire.close()
                self._wire = None
                continue
            if push is None:
                return False
            if push[0] == b"message":
                return True
        return False

    def _rung(self) -> bool:
        if self._wake.clear():
            self._wake.ring()
            return True
        return False

    def _subscribe(self) -> None:
        wire = self._dialer.dial()
        try:
            wire.send(pack("SUBSCRIBE", f"{self._prefix}S:{self._name}", f"{self._prefix}due") + pack("PING"))
            wire.read()
        except BaseException:
            wire.close()
            raise
        wire.pushes.clear()
        self._wire = wire

    def wake(self) -> None:
        self._wake.ring()

    def lane_died(self, lane: int, executing: RunId | None, envelope: bytes = b"", died: float | None = None) -> bool:
        at = connection_number(died)
        packed = scripts.lane_died.pack(
            self._prefix, self._name, lane, at, executing or "", self._max_crashes, envelope, self._ttl
        )
        return bool(self._call(packed)[2])

    def claims(self) -> list[tuple[int, RunId, Token]]:
        flat = [part.decode() for part in self._call(scripts.claims.pack(self._prefix, self._name, ""))[1]]
        return [(int(flat[at + 2]), flat[at], Token.parse(flat[at + 1])) for at in range(0, len(flat), 3)]

    def take_back(self, claims: Sequence[tuple[RunId, Token]]) -> list[RunId]:
        flat = [text for run_id, token in claims for text in (run_id, str(token))]
        reply = (
            self._call(scripts.take_back.pack(self._prefix, self._name, self._ttl, "", *flat)) if flat else (b"", ())
        )
        return [run_id.decode() for run_id in reply[1]]

    def drain(self) -> None:
        self._call(scripts.drain.pack(self._prefix, self._name, 1))

    def close(self) -> None:
        try:
            while not self._call(scripts.expire.pack(self._prefix, self._name, 1, self._ttl))[1]:
                pass
        finally:
            if self._wire is not None:
                self._wire.close()
                self._wire = None
            self._wake.close()
