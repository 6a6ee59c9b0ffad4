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
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

from kapstan.errors import ConfigurationError, LockUnavailable, LockUnreadable
from kapstan.ids import new_nonce
from kapstan.locks.checks import check, check_timeout, not_held
from kapstan.locks.dropped import close_when_dropped, weakly
from kapstan.locks.expired import Expiring
from kapstan.locks.loops import LoopWatch
from kapstan.locks.processes import Deaths, about_this_process
from kapstan.locks.silence import Silence
from kapstan.locks.waiting import Waiting, surely
from kapstan.ports import LockHolder, LockTable, Place, Wait

Steps = Generator["Callable[[], Place] | float | bool", Any, None]


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
        self._lock = threading.RLock()  # the garbage collector may end a coroutine that waits, anywhere
        self._client = ""
        self._waits: dict[str, Waiting] = {}
        self._held: dict[tuple[str, str], tuple[int, str]] = {}  # token and wait of what was acquired and not released
        self._debts: deque[Callable[[], object]] = deque()  # given up or given back, and not heard by the table yet
        self._paying = threading.RLock()
        self._expiring = Expiring()
        self._silence = Silence(lease, beat)
        self._deaths: Deaths | None = None
        self._loops = LoopWatch(beat, self._end_stranded, self._give_up)
        self._closed = False
        self._ends: list[Callable[[], object]] = [table.close]
        self._dropped = close_when_dropped(self, self._ends)

    # ------------------------------------------------------------------ what callers use

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        check_timeout(acquire_timeout, "acquire_timeout")
        waiting = self._waiting(key, holder, hold_timeout, acquire_timeout)
        return self._drive(waiting, self._acquiring(waiting, acquire_timeout))

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        check_timeout(acquire_timeout, "acquire_timeout")
        await self._call(self._begin, acquire_timeout)
        waiting = self._waiting(key, holder, hold_timeout, acquire_timeout)
        return await self._adrive(waiting, self._acquiring(waiting, acquire_timeout))

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        check_timeout(timeout, "timeout")
        waiting = self._waiting(key, "", None, timeout, look=True)
        return self._drive(waiting, self._acquiring(waiting, timeout))

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        check_timeout(timeout, "timeout")
        await self._call(self._begin, timeout)
        waiting = self._waiting(key, "", None, timeout, look=True)
        return await self._adrive(waiting, self._acquiring(waiting, timeout))

    def release_lock(self, key: str, holder: str) -> None:
        self._begin()
        held = self._held.get((key, holder))
        token = None if held is None else held[0]
        try:
            released = self._table.release(key, holder, token)
        except BaseException as error:
            if token is not None:  # it is given back all the same, as soon as the table answers
                self._debts.append(partial(self._table.release, key, holder, token, 0.0))
                if not isinstance(error, LockUnavailable):  # a time limit, Ctrl-C
                    self._soon(self._settle)
            raise
        finally:  # not before: a ring that comes late must find that its wait still holds the lock
            with self._lock:
                if self._held.get((key, holder)) is held:
                    self._held.pop((key, holder), None)
        if not released:
            raise not_held(key, holder, self._table.holder(key), token)

    async def arelease_lock(self, key: str, holder: str) -> None:
        if self._calls is None:
            self.release_lock(key, holder)
            return
        await surely(self._soon, partial(self.release_lock, key, holder))

    def guard_lock(self, key: str, holder: str) -> int:
        self._begin()
        (token, _), there = self._held.get((key, holder), (None, "")), self._table.holder(key)
        if there is None or there.holder != holder or token not in (None, there.token):
            raise not_held(key, holder, there, token)
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
        """End this client: what it holds is free, and who waits is told."""
        with self._lock:
            self._closed = True
            self._deaths = None
            waits = list(self._waits.values())
        self._dropped.detach()
        while self._ends:
            self._ends.pop()()
        for waiting in waits:
            waiting.ring()

    # ------------------------------------------------------------------ one wait

    def _waiting(
        self, key: str, holder: str, hold: float | None, patience: float | None, *, look: bool = False
    ) -> Waiting:
        check(key, holder, hold, look)
        self._begin(patience)
        return Waiting(Wait(key, holder, self._client, str(next(self._numbers)), hold, look))

    def _begin(self, patience: float | None = None) -> None:
        if self._client and not self._closed:
            return
        with self._lock:
            if self._closed:
                raise LockUnavailable("the locks of this process were closed meanwhile (its settings were changed)")
            if not self._client:
                client = new_nonce()
                try:
                    self._table.begin(client, about_this_process(), weakly(self._ring, True), patience)
                except RuntimeError as error:  # of Thread.start(): there are too many, or the interpreter ends
                    raise LockUnavailable(f"no lock can be had: this process starts no thread now ({error})") from error
                self._deaths = Deaths(weakly(self._ended, None))
                self._ends.append(self._deaths.close)
                self._client = client

    def _acquiring(self, waiting: Waiting, timeout: float | None) -> Steps:
        """Yields what to call, or how long to sleep at most; in the end whether it has what it waited for."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            waiting.clear()
            if waiting.wait.look and waiting.rung:
                yield True
            left = None if deadline is None else deadline - time.monotonic()
            place: Place = yield lambda left=left: self._ask(waiting, left)
            if place.token is not None:
                if not waiting.wait.look:
                    self._hold(waiting.wait, place.token)
                    self._ring_same(waiting.wait)
                yield True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                yield False
            yield min(self._look_after(place), self._lease if left is None else left)

    def _hold(self, wait: Wait, token: int) -> None:
        """Note what this process holds; who has it already goes on with the wait that it was granted to."""
        with self._lock:
            if self._held.get((wait.key, wait.holder), (None, ""))[0] == token:
                return
            self._held[wait.key, wait.holder] = token, wait.number
            for old in self._expiring.add(wait, token, self._held):
                del self._held[old.key, old.holder]
                self._debts.append(partial(self._table.give_up, old, 0.0))

    def _ask(self, waiting: Waiting, left: float | None) -> Place:
        stay = left is None or left > 0
        with waiting.lock:
            if waiting.over or self._closed:
                raise LockUnavailable("this wait was given up: its locks were closed, or its event loop")
            self._pay()
            place = self._table.ask(waiting.wait, stay, self._silence.clients(), left)
        if place.token is None and place.client not in ("", self._client):
            self._silence.heard(place)
            deaths = self._deaths
            if stay and deaths is not None and not deaths.watch(place.client, place.about):
                self._table.end_client(place.client)
                waiting.ring()
        return place

    def _look_after(self, place: Place) -> float:
        """Seconds until it is worth to ask again although nobody rang."""
        look = self._beat if place.ahead == 0 else self._lease
        return look if place.left is None else min(look, place.left + 0.001)

    def _give_up(self, waiting: Waiting) -> None:
        wait = waiting.wait
        with waiting.lock:
            waiting.over = True
            self._debts.append(partial(self._table.give_up, wait, 0.0))
            with self._lock:
                self._waits.pop(wait.number, None)  # it is there yet if leaving the list was interrupted
                if self._held.get((wait.key, wait.holder), (0, ""))[1] == wait.number:
                    del self._held[wait.key, wait.holder]
            self._settle()

    def _pay(self) -> None:
        """Do what could not be done before."""
        if not self._debts:
            return
        with self._paying:  # who asks again for what it gave back comes after that
            for _ in range(len(self._debts)):
                debt = self._debts[0]
                try:
                    debt()
                except LockUnreadable:  # it holds up no other
                    self._debts.append(debt)
                self._debts.popleft()

    def _settle(self) -> None:
        with contextlib.suppress(LockUnavailable, ConfigurationError):  # it is tried anew by whoever asks next
            self._pay()

    @contextlib.contextmanager
    def _enlisted(self, waiting: Waiting) -> Generator[None]:
        number = waiting.wait.number
        with self._lock:
            self._waits[number] = waiting
        try:
            yield
        finally:
            with self._lock:
                self._waits.pop(number, None)
                if not self._waits and self._deaths is not None:
                    self._deaths.forget_all()

    def _drive(self, waiting: Waiting, steps: Steps) -> bool:
        answer: Any = None
        try:
            with self._enlisted(waiting):
                while not isinstance(step := steps.send(answer), bool):
                    answer = step() if callable(step) else waiting.sleep(step)
            if not step:
                self._give_up(waiting)
            return step
        except BaseException:  # also of a call that is interrupted when it has the lock: its caller never hears of that
            self._give_up(waiting)
            raise

    async def _adrive(self, waiting: Waiting, steps: Steps) -> bool:
        import asyncio

        waiting.use(asyncio.get_running_loop())
        answer: Any = None
        with self._enlisted(waiting):
            self._loops.begin()
            try:
                while not isinstance(step := steps.send(answer), bool):
                    answer = await (self._call(step) if callable(step) else waiting.asleep(step))
            except BaseException:  # not awaited: this task may be cancelled once more, or its loop be closing
                self._loops.leave(waiting)
                raise
            if not step:
                self._loops.leave(waiting)
        return step

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if self._calls is None else await self._calls.call(function, *args)

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function``, on another thread if that may block."""
        if self._calls is not None:
            with contextlib.suppress(RuntimeError):  # the interpreter ends: no thread can be had
                self._calls.later(function, *args)
                return
        function(*args)

    # ------------------------------------------------------------------ what others do

    def _ring(self, number: str | None) -> bool:
        if number is None:
            self._settle()
        with self._lock:
            rung = list(self._waits.values()) if number is None else [self._waits.get(number)]
        for waiting in rung:
            if waiting is not None:
                waiting.rung = number is not None
                if not waiting.ring():
                    self._loops.look_now()
        return any(rung) or number is None or any(held == number for _, held in list(self._held.values()))

    def _ring_same(self, wait: Wait) -> None:
        """The holder has it now: its other calls that wait for the same key have it, too."""
        with self._lock:
            same = [each for each in list(self._waits.values()) if each.wait[:2] == wait[:2] and each.wait is not wait]
        for waiting in same:
            waiting.ring()

    def _end_stranded(self) -> bool:
        """Take waits whose event loop was closed out of their line; whether other coroutines wait."""
        with self._lock:
            waits = [each for each in list(self._waits.values()) if each.on_loop]
            stranded = [each for each in waits if each.stranded]
            for each in stranded:
                self._waits.pop(each.wait.number, None)
        for each in stranded:
            self._give_up(each)
        return len(waits) > len(stranded)

    def _ended(self, client: str) -> None:
        """A process that held something ended. Where the table does not answer, the lease ends it."""
        with contextlib.suppress(LockUnavailable):
            self._table.end_client(client)
