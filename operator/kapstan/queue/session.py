"""A session: the lease under which the lanes of one worker process hold runs, ``ports.Session`` on Redis.

Made by ``RedisQueue.open_session`` and kept by the supervisor, which runs no user code. It raises the era through the
register outside Redis when the server was restarted, and blocks on a subscription between beats.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId, Token
from kapstan.ports import EraRegister, Renewed
from kapstan.queue import scripts
from kapstan.queue.dialer import Dialer
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack

Call = Callable[[bytes], Any]


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
        tasks: Sequence[str],
        queue: str,
        routes: Sequence[str],
        lanes: int,
    ) -> None:
        self._dialer = dialer
        self._call = call
        self._register = register
        self._prefix = prefix
        self._name = name
        self._routes = tuple(routes)
        info = {"worker": worker, "tasks": list(tasks), "queue": queue, "routes": list(routes), "lanes": lanes}
        self._info = json.dumps({**info, "host": socket.gethostname()}).ljust(80)
        settings = dialer.settings
        self._lease_ms = round(settings.lease_seconds * 1000)
        self._ttl = settings.result_ttl_seconds
        self._max_crashes = settings.max_crashes
        self._wake = Wake()
        self._wire: Wire | None = None
        self._renew(opening=1)
        dialer.patiently(self._subscribe, settings.redis_retry_seconds)

    @property
    def name(self) -> str:
        return self._name

    def renew(self, held: Mapping[RunId, Token] | None = None) -> Renewed:
        answer = self._renew(opening=0)
        if held is not None:
            flat = [text for run_id, token in held.items() for text in (run_id, str(token))]
            self._call(scripts.announce.pack(self._prefix, self._name, "*", self._ttl, *flat))
        return answer

    def _renew(self, opening: int) -> Renewed:
        packed = scripts.renew.pack(
            self._prefix, self._name, self._lease_ms, self._info, opening, self._ttl, *self._routes
        )
        while (reply := self._call(packed))[1] == b"ERA":
            self._raise_era()
        _, _, alive, draining, next_due, cancelled, reaped = reply
        return Renewed(
            alive=bool(alive),
            drain=bool(draining),
            cancelled=[run_id.decode() for run_id in cancelled],
            reaped=[name.decode() for name in reaped],
            next_due=next_due / 1000 if next_due >= 0 else None,
        )

    def _raise_era(self) -> None:
        """Let this start of the server mint tokens: an era above every one that was ever used, from the register.

        Raises:
            StoreUnavailable: the register's store does not answer.
        """
        era = self._register.raise_above(self._register.current())
        while True:
            _, answer, stored = self._call(scripts.set_era.pack(self._prefix, f"{era:06d}", self._lease_ms))
            if answer == b"OK":
                return
            era = self._register.raise_above(max(int(stored), self._register.current()))

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

    def lane_died(self, lane: int, executing: RunId | None, envelope: bytes = b"") -> bool:
        packed = scripts.lane_died.pack(
            self._prefix, self._name, lane, executing or "", self._max_crashes, envelope, self._ttl
        )
        return bool(self._call(packed)[2])

    def give_back(self, lane: int, executing: Sequence[RunId]) -> list[RunId]:
        reply = self._call(scripts.give_back.pack(self._prefix, self._name, lane, self._ttl, *executing))
        return [run_id.decode() for run_id in reply[1][::2]]

    def drain(self) -> None:
        self._call(scripts.drain.pack(self._prefix, self._name, 1))

    def close(self) -> None:
        while not self._call(scripts.expire.pack(self._prefix, self._name, 1, 0, self._ttl))[1]:
            pass
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._wake.close()
