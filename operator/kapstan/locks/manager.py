"""``Locks``: how calls of this process wait for a lock that a table keeps. One body, a blocking and an asyncio driver.

A waiting call sleeps until the table rings it, and asks again then: a grant is what the table answers, never what a
message said, so that a message that is lost or late does no harm. It also asks again when a hold is due to end, and a
beat later if it is the first in line: that is how a holder that fell silent, or a table that lost its line, is noticed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

from kapstan.errors import LockLost, LockUnavailable, NotLockHolder
from kapstan.ids import new_nonce
from kapstan.locks.processes import Deaths, about_this_process
from kapstan.locks.waiting import Waiting
from kapstan.ports import LockHolder, LockTable, Place, Wait

Steps = Generator["Callable[[], Place] | float | None", Any, bool]


class Calls(Protocol):
    """How a call that may block is made from an event loop: ``Backend``."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any: ...

    def later(self, function: Callable[..., object], *args: Any) -> None: ...


class Locks:
    """``ports.LockManager`` over one table, for one process.

    Args:
        lease, beat: seconds; how long a silent client keeps its locks, and how often the first in line looks.
        calls: None: calls of the table never block.
    """

    def __init__(self, table: LockTable, lease: float, beat: float, calls: Calls | None) -> None:
        self._table = table
        self._lease = lease
        self._beat = beat
        self._calls = calls
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._client = ""
        self._waits: dict[str, Waiting] = {}
        self._held: dict[tuple[str, str], tuple[int, str]] = {}  # token and wait of what was acquired and not released
        self._debts: list[Callable[[], object]] = []  # what was given up or given back while the table did not answer
        self._silence: dict[str, tuple[str, float, float]] = {}  # client: beat, seconds watched, last look
        self._deaths: Deaths | None = None

    # ------------------------------------------------------------------ what callers use

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        waiting = self._waiting(key, holder, hold_timeout)
        return self._drive(waiting, self._acquiring(waiting, acquire_timeout))

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        await self._call(self._begin)
        waiting = self._waiting(key, holder, hold_timeout)
        return await self._adrive(waiting, self._acquiring(waiting, acquire_timeout))

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        waiting = self._waiting(key, "", None, look=True)
        return self._drive(waiting, self._acquiring(waiting, timeout))

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        await self._call(self._begin)
        waiting = self._waiting(key, "", None, look=True)
        return await self._adrive(waiting, self._acquiring(waiting, timeout))

    def release_lock(self, key: str, holder: str) -> None:
        self._begin()
        held = self._held.get((key, holder))
        token = None if held is None else held[0]
        try:
            released = self._table.release(key, holder, token)
        except LockUnavailable:
            if token is not None:  # it is given back all the same, as soon as the table answers
                self._debts.append(partial(self._table.release, key, holder, token))
            raise
        finally:  # not before: a ring that comes late must find that its wait still holds the lock
            with self._lock:
                if self._held.get((key, holder)) is held:
                    self._held.pop((key, holder), None)
        if not released:
            raise _not_held(key, holder, self._table.holder(key), token)

    async def arelease_lock(self, key: str, holder: str) -> None:
        await self._call(self.release_lock, key, holder)

    def guard_lock(self, key: str, holder: str) -> int:
        self._begin()
        (token, _), there = self._held.get((key, holder), (None, "")), self._table.holder(key)
        if there is None or there.holder != holder or token not in (None, there.token):
            raise _not_held(key, holder, there, token)
        return there.token

    async def aguard_lock(self, key: str, holder: str) -> int:
        return await self._call(self.guard_lock, key, holder)

    def is_locked(self, key: str) -> bool:
        return self.lock_holder(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        there = self.lock_holder(key)
        return there is not None and there.holder == holder

    def lock_holder(self, key: str) -> LockHolder | None:
        self._begin()
        return self._table.holder(key)

    def close(self) -> None:
        """End this client: what it holds is free."""
        with self._lock:
            deaths, self._deaths = self._deaths, None
        if deaths is not None:
            deaths.close()
        self._table.close()

    # ------------------------------------------------------------------ one wait

    def _waiting(self, key: str, holder: str, hold: float | None, *, look: bool = False) -> Waiting:
        _check(key, holder, hold, look)
        self._begin()
        return Waiting(Wait(key, holder, self._client, str(next(self._numbers)), hold, look))

    def _begin(self) -> None:
        if not self._client:
            with self._lock:
                if not self._client:
                    client = new_nonce()
                    self._table.begin(client, about_this_process(), self._ring)
                    self._deaths = Deaths(self._ended)
                    self._client = client

    def _acquiring(self, waiting: Waiting, timeout: float | None) -> Steps:
        """Yields what to call, or how long to sleep at most."""
        if timeout is not None and timeout != timeout:
            raise ValueError(f"acquire_timeout={timeout!r}: give a number of seconds, or None")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            waiting.clear()
            if waiting.wait.look and waiting.rung:
                waiting.done = True
                return True
            left = None if deadline is None else deadline - time.monotonic()
            place: Place = yield lambda left=left: self._ask(waiting, left)
            if place.token is not None:
                if not waiting.wait.look:
                    self._hold(waiting.wait, place.token)
                    self._ring_same(waiting.wait)
                waiting.done = True
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            yield min(self._look_after(place), self._lease if left is None else left)

    def _hold(self, wait: Wait, token: int) -> None:
        """Note what this process holds; who has it already goes on with the wait that it was granted to."""
        with self._lock:
            if self._held.get((wait.key, wait.holder), (None, ""))[0] != token:
                self._held[wait.key, wait.holder] = token, wait.number

    def _ask(self, waiting: Waiting, left: float | None) -> Place:
        stay = left is None or left > 0
        with waiting.lock:
            if waiting.over:
                raise LockUnavailable("this wait was given up")
            self._pay()
            place = self._table.ask(waiting.wait, stay, self._silent(), left)
        if place.token is None and stay and place.client not in ("", self._client):
            self._heard(place)
            deaths = self._deaths
            if deaths is not None and not deaths.watch(place.client, place.about):
                self._table.end_client(place.client)
                waiting.ring()
        return place

    def _look_after(self, place: Place) -> float:
        """Seconds until it is worth to ask again although nobody rang."""
        look = self._beat if place.ahead == 0 else self._lease
        return look if place.left is None else min(look, place.left + 0.001)

    def _give_up(self, waiting: Waiting) -> None:
        with waiting.lock:
            waiting.over = True
            if waiting.done:
                return
            self._debts.append(partial(self._table.give_up, waiting.wait, 0.0))
            with contextlib.suppress(LockUnavailable):  # whoever asks next, or hears that the table is back, does it
                self._pay()

    def _pay(self) -> None:
        """Do what could not be done before."""
        while self._debts:
            debt = self._debts.pop()
            try:
                debt()
            except BaseException:
                self._debts.append(debt)
                raise

    @contextlib.contextmanager
    def _enlisted(self, waiting: Waiting) -> Generator[None]:
        number = waiting.wait.number
        with self._lock:
            self._waits[number] = waiting
        try:
            yield
        finally:
            with self._lock:
                del self._waits[number]
                if not self._waits:
                    self._silence.clear()
                    if self._deaths is not None:
                        self._deaths.forget_all()

    def _drive(self, waiting: Waiting, steps: Steps) -> bool:
        answer: Any = None
        with self._enlisted(waiting):
            try:
                while True:
                    step = steps.send(answer)
                    answer = step() if callable(step) else waiting.sleep(step)
            except StopIteration as end:
                return end.value
            finally:
                if not waiting.done:
                    self._give_up(waiting)

    async def _adrive(self, waiting: Waiting, steps: Steps) -> bool:
        import asyncio

        waiting.use(asyncio.get_running_loop())
        answer: Any = None
        with self._enlisted(waiting):
            try:
                while True:
                    step = steps.send(answer)
                    answer = await (self._call(step) if callable(step) else waiting.asleep(step))
            except StopIteration as end:
                return end.value
            finally:
                if not waiting.done:  # not awaited: this task may be cancelled once more, or its loop be closing
                    if self._calls is None:
                        self._give_up(waiting)
                    else:
                        self._calls.later(self._give_up, waiting)

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if self._calls is None else await self._calls.call(function, *args)

    # ------------------------------------------------------------------ what others do

    def _ring(self, number: str | None) -> bool:
        if number is None:
            with contextlib.suppress(LockUnavailable):
                self._pay()
        with self._lock:
            rung = list(self._waits.values()) if number is None else [self._waits.get(number)]
        for waiting in rung:
            if waiting is not None:
                waiting.rung = number is not None
                waiting.ring()
        return any(rung) or number is None or any(held == number for _, held in list(self._held.values()))

    def _ring_same(self, wait: Wait) -> None:
        """The holder has it now: its other calls that wait for the same key have it, too."""
        with self._lock:
            same = [each for each in self._waits.values() if each.wait[:2] == wait[:2] and each.wait is not wait]
        for waiting in same:
            waiting.ring()

    def _ended(self, client: str) -> None:
        """A process that held something ended. Where the table does not answer, the lease ends it."""
        with contextlib.suppress(LockUnavailable):
            self._table.end_client(client)

    def _heard(self, place: Place) -> None:
        """Count for how long the holder's client was silent while the table answered: a pause between two answers
        counts as a beat at most, so that a table that stalls ends nobody."""
        now = time.monotonic()
        with self._lock:
            beat, watched, last = self._silence.get(place.client, ("", 0.0, now))
            watched = watched + min(now - last, self._beat) if beat == place.beat else 0.0
            self._silence[place.client] = (place.beat, watched, now)

    def _silent(self) -> list[tuple[str, str]]:
        with self._lock:
            return [(client, beat) for client, (beat, watched, _) in self._silence.items() if watched >= self._lease]


def _check(key: object, holder: object, hold: float | None, look: bool) -> None:
    for name, text in (("key", key), ("holder", "-" if look else holder)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name}={text!r}: give a text of at least one character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}={text!r}: it has a character that UTF-8 cannot write (a lone surrogate)"
            ) from None
    # Not nan, which no comparison ends, and no number that overflows where it is counted in milliseconds.
    if hold is not None and not (isinstance(hold, int | float) and 0 < hold <= 1e10):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"hold_timeout={hold!r}: give a number of seconds above 0, or None")


def _not_held(key: str, holder: str, there: LockHolder | None, token: int | None) -> NotLockHolder:
    now = "nobody holds it" if there is None else f"{there.holder!r} holds it ({there.process})"
    shown = key if len(key) <= 100 else f"{key[:100]}..."
    if token is None:
        return NotLockHolder(f"The lock {shown!r} is not held by {holder!r}: {now}")
    return LockLost(f"The lock {shown!r}, which {holder!r} had under token {token}, was lost: {now}")
