"""A lane: one executor's own line to the queue, ``ports.Lane`` on Redis.

Made by ``RedisQueue.open_lane`` in the executor child. An idle lane blocks on the subscription of its connection; a
submit anywhere hands it a claim through that. The queue alone says whether a lane is idle, not what is
remembered here: others take claims away (a recall by the supervisor, a lease that ended). After every reconnect the
lane announces what it still knows to hold, so that claims whose reply was lost go back, and sends its unanswered steps
again; their commits are recognised. Connections are numbered: what an older one sent and reaches the queue only now
does nothing there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId, Token
from kapstan.ports import Claim, Outcome, Stepped, Want
from kapstan.queue import scripts
from kapstan.queue.dialer import Dialer, connection_number
from kapstan.queue.holding import Held, Minted, Step, claimed, hand_in, minted, minted_as
from kapstan.queue.record import Route, check_format
from kapstan.queue.second_connection import SecondConnection
from kapstan.queue.server_clock import ServerClock
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack

MOST = 256  # runs that one step claims or finishes
log = logging.getLogger("kapstan.queue")
_ERA_PATIENCE = 5.0  # seconds after which a lane asks again whether the era was raised
_TOLD = (b"IDLE", b"DRAIN", b"DEAD")
"""What a step may answer to a lane that may then block: it is told when that is over."""


class RedisLane:
    """See ``ports.Lane``."""

    def __init__(self, dialer: Dialer, prefix: str, session: str, lane: int, routes: Sequence[str]) -> None:
        self._dialer = dialer
        self._prefix = prefix
        self._session = session
        self._holder = session.encode()
        self._lane = lane
        self._routes = deque((route, Route.parse(route).task) for route in routes)
        self._ttl = dialer.settings.result_ttl_seconds
        self._patience = dialer.settings.redis_retry_seconds
        self._channel = f"{prefix}l:{session}:{lane}".encode()
        self._broadcast = f"{prefix}b".encode()
        self._wake = Wake()
        self._clock = ServerClock()
        self._steps: deque[Step] = deque()
        self._held: dict[RunId, Held] = {}
        self._pushed: list[Claim] = []
        self._went_back: set[tuple[RunId, str]] = set()
        self._status = b""  # of the last step; empty: ask again
        self._may_be_handed = True  # a run at any time: the queue has said IDLE, or may have
        self._lock = threading.Lock()  # _held and _went_back: give_back comes from a second thread
        self._side = SecondConnection(dialer)
        self._wire: Wire | None = None
        self._number = 0  # of the connection
        dialer.patiently(self._connect, self._patience)

    # ------------------------------------------------------------------ steps

    def step(self, outcomes: Sequence[Outcome], want: Want) -> Stepped:
        self.send_step(outcomes, want)
        return self.read_step()

    def send_step(self, outcomes: Sequence[Outcome], want: Want) -> None:
        if len(outcomes) > MOST:
            raise ValueError(f"{len(outcomes)} outcomes in one step; the most is {MOST}")
        with self._lock:
            rest, finished = hand_in(self._held, outcomes, self._clock.now())
            sure = not (self._held or self._pushed or self._steps or self._may_be_handed)
        asked: list[str | int] = []
        if isinstance(want, int):
            most = min(want, MOST)
            for route, _ in self._routes:
                asked += (route, most)
        else:
            most = MOST
            for route, task in self._routes:
                asked += (route, want.get(task, 1))
        step = Step(int(sure), most, len(self._routes), (*asked, *rest), finished)
        self._routes.rotate(-1)
        self._steps.append(step)
        if self._wire is not None:
            try:
                self._send(self._wire, step)
            except ConnectionLost:
                self._disconnect()

    def read_step(self) -> Stepped:
        while True:
            if self._wire is None:
                self._recover(self._patience)
            try:
                assert self._wire is not None
                reply: list[Any] = self._wire.read()
            except ConnectionLost:
                self._disconnect()
                continue
            if self._wire.pushes:
                self._read_pushes(self._wire)
            check_format(reply)
            if reply[1] == b"ERA":
                self._await_era()
                continue
            if reply[1] == b"STALE":
                self._disconnect()
                continue
            self._steps.popleft()
            self._status = reply[1]
            self._may_be_handed = reply[1] == b"IDLE"
            claims = self._pushed
            self._pushed = []
            _, _, lost, flat, era, since = reply
            self._clock.told(since)
            with self._lock:
                for at in range(0, len(flat), 2):
                    record = flat[at + 1]
                    self._accept(flat[at].decode(), minted(era, record[8:16], since, self._holder), record, claims)
                if not self._steps:  # whatever went back unread has been read
                    self._went_back.clear()
            return Stepped([run_id.decode() for run_id in lost], claims)

    def _send(self, wire: Wire, step: Step) -> None:
        place = (self._prefix, self._session, self._lane, self._number)
        wire.send(scripts.step.pack(*place, step.sure, step.want, self._ttl, step.routes, *step.rest))

    def wait(self, timeout: float | None) -> list[Claim]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._pushed:
                claims, self._pushed, self._status = self._pushed, [], b""
                return claims
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._wire is None:
                try:
                    self._recover(left)
                except QueueUnavailable:
                    return []
            try:
                if self._status not in _TOLD:
                    if claims := self._ask():
                        return claims
                    continue
                assert self._wire is not None
                push = self._wire.receive(left, self._wake)
            except ConnectionLost:
                self._disconnect()
                continue
            if push is None:
                return []
            if self._read_push(push):
                self._status = b""

    def _ask(self) -> list[Claim]:
        """Ask for work, for a caller that has none. If the queue still shows claims of this lane, their answer was lost
        (or that of a retry): they go back first, or the lane would never be idle again."""
        claims = self.read_step().claims if self._steps else self.step([], 1).claims
        if not claims and self._status == b"HOLDS" and not self._steps:
            self._renounce()
        return claims

    def _renounce(self) -> None:
        """Announce that nothing is held. What was handed over before the answer has gone to others: it is dropped."""
        with self._lock:
            self._held.clear()
        try:
            if self._wire is not None:
                self._wire.send(self._announcement())
                check_format(self._wire.read())
                self._wire.pushes.clear()
        except ConnectionLost:
            self._disconnect()
        with self._lock:
            self._held, self._pushed, self._status = {}, [], b""
            self._went_back.clear()

    def wake(self) -> None:
        self._wake.ring()

    # ------------------------------------------------------------------ claims

    def _accept(self, run_id: RunId, made: Minted, record: bytes, claims: list[Claim]) -> None:
        """Add a claim that was read, unless ``give_back`` has returned it before it was read. With the lock held."""
        if self._went_back and (run_id, made.text) in self._went_back:
            self._went_back.discard((run_id, made.text))
            return
        claim, self._held[run_id] = claimed(run_id, made, record)
        claims.append(claim)

    def _read_pushes(self, wire: Wire) -> None:
        while wire.pushes:
            self._read_push(wire.pushes.popleft())

    def _read_push(self, push: list[Any]) -> bool:
        """Take in a message; True if it asks every lane to step again."""
        if push[0] != b"message":
            return False
        if push[1] == self._broadcast:
            return True
        payload: bytes = push[2]
        self._status = b""  # handed a run it is idle no more, also if the run has gone back unread
        self._may_be_handed = False
        with self._lock:
            record = payload[37:]
            try:
                self._clock.told(record[16:26])
                made = minted_as(payload[23:37], record[16:26], self._holder)
                self._accept(payload[1:23].decode(), made, record, self._pushed)
            except (ValueError, LookupError):  # what the queue hands over can be read: it asks what it holds
                self._may_be_handed = True
                log.warning("A message on %s is not from Kapstan and is ignored: %.60r", self._channel, payload)
        return False

    def give_back(self, executing: Sequence[RunId], begun: RunId = "") -> list[RunId]:
        with self._lock:
            kept = set(executing)
            before = {run_id: claim for run_id, claim in self._held.items() if run_id not in kept}
        claims = self._shown(kept)
        if claims:  # by token: should this word come late, or twice, it takes nothing that is claimed after it
            flat = [text for claim in claims for text in claim]
            self._side.call(scripts.take_back.pack(self._prefix, self._session, self._ttl, begun, *flat))
        back: list[RunId] = []
        with self._lock:
            for rid, token in claims:
                held = self._held.get(rid)
                if held is not None and held[0].text == token:
                    del self._held[rid]
                    back.append(rid)
                else:
                    self._went_back.add((rid, token))
            for rid, claim in before.items():  # others had taken it away before
                if self._held.get(rid) == claim:
                    del self._held[rid]
        return back

    def give_back_all(self, begun: RunId = "") -> None:
        self.give_back([], begun)
        self._renounce()

    def _shown(self, kept: set[RunId]) -> list[tuple[RunId, str]]:
        """What the queue shows as held by this lane, but for ``kept``: run and token."""
        asked = scripts.claims.pack(self._prefix, self._session, self._lane)
        flat = [part.decode() for part in self._side.call(asked)[1]]
        return [(rid, token) for rid, token in zip(flat[::3], flat[1::3], strict=True) if rid not in kept]

    def hand_in(self, outcomes: Sequence[Outcome]) -> list[RunId]:
        with self._lock:
            held = dict(self._held)
            rest, _ = hand_in(held, outcomes, self._clock.now())
        packed = scripts.step.pack(self._prefix, self._session, self._lane, "", 0, 0, self._ttl, 0, *rest)
        while (reply := self._side.call(packed))[1] == b"ERA":
            time.sleep(0.05)  # a supervisor is raising the era
        with self._lock:
            for outcome in outcomes:
                self._held.pop(outcome.run_id, None)
        return [run_id.decode() for run_id in reply[2]]

    def retry(self, run_id: RunId, token: Token, delay: float, *, counted: bool = True) -> bool:
        pause = max(0, round(delay * 1000))
        arguments = (self._prefix, self._session, run_id, str(token), pause, self._ttl, int(counted))
        while True:
            reply = self._side.call(scripts.retry.pack(*arguments, 0), scripts.retry.pack(*arguments, 1))
            if reply[1] != b"ERA":
                break
            time.sleep(0.05)  # a supervisor is raising the era
        with self._lock:
            held = self._held.get(run_id)
            if held is not None and held[0].token == token:
                del self._held[run_id]
        return reply[1] == b"OK"

    # ------------------------------------------------------------------ connection

    def _connect(self) -> None:
        wire = self._dialer.dial()
        try:
            with self._lock:
                self._went_back.clear()  # what the broken connection did not bring never comes
                known = {run_id: claim[0].text for run_id, claim in self._held.items()}
            for step in self._steps:
                known.update(step.finished)
            heard = pack("SUBSCRIBE", self._channel, self._broadcast, f"{self._prefix}at:{wire.start}")
            wire.send(heard + self._announcement(*(text for claim in known.items() for text in claim)))
            check_format(wire.read())
            wire.pushes.clear()  # confirmations
            for step in self._steps:
                self._send(wire, step)
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        self._status, self._may_be_handed = b"", True

    def _announcement(self, *held: str) -> bytes:
        self._number = max(self._number + 1, connection_number())
        return scripts.announce.pack(self._prefix, self._session, self._lane, self._number, self._ttl, *held)

    def _recover(self, seconds: float | None) -> None:
        def given_up() -> bool:
            if self._wake.clear():
                self._wake.ring()  # for the wait that comes
                return not self._steps
            return False

        try:
            self._dialer.patiently(self._connect, seconds, given_up)
        except QueueUnavailable:
            self._steps.clear()
            raise

    def _disconnect(self) -> None:
        if self._wire is not None:
            self._read_pushes(self._wire)
            self._wire.close()
            self._wire = None
        self._status = b""

    def _await_era(self) -> None:
        """Block until the era was raised, then begin a new connection, which sends the open steps again in order."""
        until = time.monotonic() + _ERA_PATIENCE
        while (left := until - time.monotonic()) > 0 and self._wire is not None:
            try:
                item = self._wire.receive(left, _NO_WAKE)
            except ConnectionLost:
                break
            if type(item) is hiredis.PushNotification and self._read_push(item):
                break
        self._disconnect()

    def close(self) -> None:
        self._disconnect()
        self._side.close()
        self._wake.close()


_NO_WAKE = Wake()
