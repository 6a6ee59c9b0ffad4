"""Cache policies with a lock manager: who waits for whom, and what happens when nobody can tell."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.keyed.charging import effects
from tests.integration.keyed.conftest import Processes
from tests.integration.keyed.test_calls import both

from kapstan import backend as backends
from kapstan import flow
from kapstan.cache_policies import INPUTS
from kapstan.engine import cache_key, key_lock
from kapstan.errors import ConfigurationError, LockUnavailable
from kapstan.locking import FileSystemLockManager, MemoryLockManager
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.tasks import Task

ran: list[Any] = []
PURE, ONCE = EffectClass.PURE, EffectClass.AT_MOST_ONCE


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Iterator[None]:
    ran.clear()
    backends.use(Settings(home=str(tmp_path / "home")))
    yield
    backends.use(None)


def ordered(fn: Callable[..., Any], effect: EffectClass, manager: Any = None, level: str = "SERIALIZABLE") -> Any:
    policy = INPUTS.configure(lock_manager=manager or MemoryLockManager(), isolation_level=level)
    return Task(fn, name=f"locked-{fn.__name__}-{effect.name.lower()}", effect=effect, cache_policy=policy)


def in_line() -> int:
    """How many runs of this process wait for their turn."""
    return sum(len(waiting) for waiting in key_lock._lines._waiting.values())  # pyright: ignore[reportPrivateUsage]


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        threading.Event().wait(0.001)


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_callers_of_one_key_compute_once(effect: EffectClass) -> None:
    def slow(n: int) -> int:
        ran.append(n)
        until(lambda: in_line() == 11)
        return n

    subject = ordered(slow, effect)
    assert both([lambda: subject(7)] * 12) == [7] * 12
    assert ran == [7]


def test_without_the_order_a_pure_task_computes_as_often_as_it_is_called_at_once() -> None:
    together = threading.Barrier(3)

    def slow(n: int) -> int:
        ran.append(n)
        together.wait(30)
        return n

    subject = ordered(slow, PURE, level="READ_COMMITTED")
    assert both([lambda: subject(7)] * 3) == [7] * 3
    assert ran == [7] * 3


def test_code_that_calls_itself_under_its_own_key_does_not_wait_for_itself() -> None:
    def again(n: int) -> int:
        ran.append(n)
        return subject(n) if len(ran) < 3 else n

    subject = ordered(again, PURE)
    assert subject(5) == 5
    assert (ran, in_line()) == ([5] * 3, 0)
    ran.clear()
    subject = ordered(again, ONCE)
    with pytest.raises(ConfigurationError, match=r"calls it under its own key .* would wait for itself"):
        subject(6)
    assert ran == [6]


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_async_callers_compute_once_and_their_loop_goes_on(effect: EffectClass) -> None:
    async def slow(n: int) -> int:
        ran.append(n)
        await asyncio.to_thread(until, lambda: in_line() == 39)
        return n

    subject = ordered(slow, effect)

    @flow(name=f"locked-gathers-{effect.name}")
    async def gathers() -> list[int]:
        return await asyncio.gather(*(subject(3) for _ in range(40)))

    assert asyncio.run(gathers()) == [3] * 40
    assert ran == [3]


def test_those_that_wait_for_an_effect_that_fails_have_its_failure() -> None:
    def refused(n: int) -> int:
        ran.append(n)
        until(lambda: in_line() == 3)
        raise ValueError(f"no {n}")

    subject = ordered(refused, ONCE)
    found = both([lambda: subject(7)] * 4)
    assert [(type(error), str(error)) for error in found] == [(ValueError, "no 7")] * 4
    assert ran == [7]
    assert in_line() == 0


def test_the_next_in_line_works_when_the_one_before_has_failed() -> None:
    gates = [threading.Event() for _ in range(4)]

    def refused(n: int) -> int:
        turn = len(ran)
        ran.append(threading.current_thread().name)
        assert gates[turn].wait(30)
        raise ValueError(f"no {n}")

    subject = ordered(refused, PURE)

    def call() -> None:
        with pytest.raises(ValueError, match="no 7"):
            subject(7)

    threads = [threading.Thread(target=call, name=f"{number}") for number in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(ran) + in_line() == number + 1)
    for gate in gates:
        gate.set()
    for thread in threads:
        thread.join(30)
    assert ran == ["0", "1", "2", "3"]


def test_who_is_cancelled_in_the_line_leaves_it() -> None:
    gate = asyncio.Event()

    async def slow(n: int) -> int:
        ran.append(n)
        await gate.wait()
        raise ValueError("no")

    subject = ordered(slow, PURE)

    async def main() -> list[Any]:
        first = asyncio.ensure_future(subject(1))
        await asyncio.to_thread(until, lambda: ran == [1])  # it is the one that has its turn
        second, third = (asyncio.ensure_future(subject(1)) for _ in range(2))
        await asyncio.to_thread(until, lambda: in_line() == 2)
        second.cancel()
        gate.set()
        return await asyncio.gather(first, second, third, return_exceptions=True)

    found = asyncio.run(main())
    assert [type(error) for error in found] == [ValueError, asyncio.CancelledError, ValueError]
    assert ran == [1, 1]
    assert in_line() == 0


def test_processes_compute_a_pure_key_once(processes: Processes, tmp_path: Path) -> None:
    """The second process stands in line before the first one's code is let go on."""
    setting, gate = backends.current().settings, tmp_path / "gate"
    os.mkfifo(gate)
    order = {"folder": str(tmp_path), "order": "1", "class": "pure", "locks": str(tmp_path / "locks")}
    processes.run(setting, **order, environment={"GATE": str(gate)}, leave=True)
    until(lambda: len(effects(tmp_path)) == 1)
    inputs = repr(sorted({"folder": str(tmp_path), "order": "1", "size": 0}.items()))
    name, locks = cache_key.key_text("keyed-charge", "args", inputs), FileSystemLockManager(tmp_path / "locks")

    def let_go() -> None:
        until(lambda: (holder := locks.lock_holder(name)) is not None and holder.waiting == 1)
        gate.write_text("")

    helper = threading.Thread(target=let_go)
    helper.start()
    assert processes.run(setting, **order) == (0, ["1", ""])
    helper.join()
    assert len(effects(tmp_path)) == 1


class Away:
    """A lock manager that refuses its first callers."""

    def __init__(self, refusals: float = math.inf) -> None:
        self.asked = 0
        self.refusals = refusals

    def acquire_lock(self, key: str, holder: str, acquire_timeout: float | None = None, **_: Any) -> bool:
        self.asked += 1
        if self.asked <= self.refusals:
            raise LockUnavailable("no answer")
        return True

    def release_lock(self, key: str, holder: str) -> None:
        ran.append("released")


def note(n: int) -> int:
    ran.append(n)
    return n


def test_a_manager_that_is_away_keeps_an_effect_from_happening(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LockUnavailable, match="no answer"):
        ordered(note, ONCE, Away())(1)
    assert (ran, in_line()) == ([], 0)
    assert ordered(note, PURE, Away())(1) == 1
    assert "Nobody orders the callers of locked-note-pure, it is executed: no answer" in caplog.text
    assert ran == [1]


def test_a_flow_waits_for_a_manager_that_is_away() -> None:
    manager = Away(2)
    subject = ordered(note, ONCE, manager)
    assert flow(name="locked-waiting")(lambda: subject(1))() == 1
    assert (manager.asked, ran) == (3, [1, "released"])


def test_a_lock_that_cannot_be_freed_changes_no_result(caplog: pytest.LogCaptureFixture) -> None:
    class Sticky(Away):
        def release_lock(self, key: str, holder: str) -> None:
            raise LockUnavailable("no answer")

    assert ordered(note, ONCE, Sticky(0))(1) == 1
    assert "was not released: LockUnavailable: no answer" in caplog.text
    assert in_line() == 0
