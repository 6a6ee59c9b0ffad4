"""Keyed calls in one process, every way of making them: one execution, and one result or one failure for all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.keyed.charging import ByInputs

from kapstan import backend as backends
from kapstan import flow, task
from kapstan.context import get_run_context
from kapstan.engine import flow_engine
from kapstan.errors import (
    HandBack,
    KeyExpired,
    MissingContextError,
    MissingResult,
    ParkedRun,
    PausedRun,
    SerializationError,
)
from kapstan.ids import new_id
from kapstan.ports.register import RegisterEvent, RegisterKey, RegisterRecord, RegisterState
from kapstan.runtime import task_run
from kapstan.settings import Settings
from kapstan.states import EffectClass, State
from kapstan.tasks import Task

ran: list[Any] = []
ONCE = EffectClass.AT_MOST_ONCE
CLASSES = [EffectClass.PURE, EffectClass.IDEMPOTENT, ONCE, EffectClass.TRANSACTIONAL]


@pytest.fixture(autouse=True)
def fresh(setting: Settings) -> None:
    ran.clear()


def keyed(fn: Callable[..., Any], effect: EffectClass = ONCE, **options: Any) -> Task[..., Any]:
    policy = {name: options.pop(name) for name in ("cache_expiration", "refresh_cache") if name in options}
    made = Task(fn, name=f"keyed-{fn.__name__}", effect=effect, **options)
    made.spec = replace(made.spec, cache_policy=ByInputs(), **policy)
    return made


def double(n: int) -> int:
    ran.append(n)
    return 2 * n


async def adouble(n: int) -> int:
    ran.append(n)
    await asyncio.sleep(0.02)
    return 2 * n


def entry(subject: Task[..., Any]) -> tuple[RegisterKey, RegisterRecord]:
    """The only register of a task."""
    register = backends.current().register
    (key,) = [key for key in register.all_keys() if key.task == subject.spec.identity]
    found = register.read(key)
    assert found is not None
    return key, found.record


def both(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results, or errors, of calls on threads of their own that begin together."""
    start, found = threading.Barrier(len(calls)), list[Any]([None] * len(calls))

    def run(number: int) -> None:
        start.wait()
        try:
            found[number] = calls[number]()
        except Exception as error:  # noqa: BLE001
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def set_after_reads(monkeypatch: pytest.MonkeyPatch, number: int, event: threading.Event) -> list[str]:
    """Set ``event`` when callers have read the register so often; the names of their threads."""
    read, readers = backends.current().register.read, list[str]()

    def counted(key: RegisterKey) -> Any:
        found, name = read(key), threading.current_thread().name
        if name != "kapstan-key-watch":
            readers.append(name)
            if len(readers) == number:
                event.set()
        return found

    monkeypatch.setattr(backends.current().register, "read", counted)
    return readers


@pytest.mark.parametrize("effect", CLASSES)
def test_a_second_call_has_the_first_one_s_result(effect: EffectClass) -> None:
    subject = keyed(double, effect)
    assert subject(4) == 8
    state: State = subject(4, return_state=True)
    assert (state.name, state.type.value, state.result()) == ("Cached", "COMPLETED", 8)
    assert ran == [4]
    _, record = entry(subject)
    assert (record.state, record.epoch, record.outcome) == (RegisterState.COMMITTED, 1, "completed")
    assert subject(5) == 10
    assert ran == [4, 5]


@pytest.mark.parametrize("effect", [EffectClass.IDEMPOTENT, ONCE])
def test_every_way_of_making_a_call_is_one_execution(effect: EffectClass) -> None:
    subject, twin = keyed(double, effect), keyed(adouble, effect)

    @task(name="keyed-embedding")
    def embedding() -> int:
        return subject(1)

    @flow(name="keyed-child")
    def child() -> int:
        return subject(1)

    @flow(name="keyed-ways")
    def ways() -> list[Any]:
        mapped = [future.result() for future in subject.map([1, 1])]
        return [subject(1), subject.submit(1).result(), *mapped, embedding(), child()]

    @flow(name="keyed-async-ways")
    async def async_ways() -> list[Any]:
        return [*await asyncio.gather(*(twin(2) for _ in range(20))), twin.submit(2).result()]

    assert ways() == [2] * 6
    assert ran == [1]
    assert asyncio.run(async_ways()) == [4] * 21
    assert ran == [1, 2]


def test_a_flow_journals_a_cached_outcome_as_any_other() -> None:
    subject = keyed(double)
    assert subject(3) == 6
    seen: list[str] = []

    def body() -> None:
        seen.append(subject(3, return_state=True).name)
        if len(seen) == 1:
            raise HandBack

    run_id, spec = new_id(), flow(name="keyed-journalled")(body).spec
    with pytest.raises(HandBack):
        flow_engine.run(flow_engine.make_run(spec, run_id, {}), attempt=1)
    key, _ = entry(subject)
    backends.current().store.delete([backends.current().register.path(key)])  # only the journal has it now
    flow_engine.run(flow_engine.make_run(spec, run_id, {}), attempt=2)
    assert seen == ["Cached", "Cached"]
    assert ran == [3]


@pytest.mark.parametrize("effect", CLASSES[1:])
def test_concurrent_callers_are_one_execution_and_have_one_result(effect: EffectClass) -> None:
    go = threading.Event()

    def charge(n: int) -> int:
        ran.append(n)
        assert go.wait(30)
        return n

    subject = keyed(charge, effect)
    threading.Timer(0.1, go.set).start()
    assert both([lambda: subject(7)] * 20) == [7] * 20
    assert ran == [7]


def test_those_that_wait_do_not_each_read_what_one_look_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, begun, all_have_read = 8, threading.Event(), threading.Event()

    def slow(n: int) -> int:
        ran.append(n)
        begun.set()
        all_have_read.wait(30)
        return n

    subject = keyed(slow)
    holder = threading.Thread(target=subject, args=(3,))
    holder.start()
    assert begun.wait(30)
    readers = set_after_reads(monkeypatch, waiting, all_have_read)
    assert both([lambda: subject(3)] * waiting) == [3] * waiting
    holder.join()
    assert ran == [3]
    assert len(readers) == len({*readers}) == waiting


def test_those_that_wait_for_a_failure_have_it_and_who_comes_later_executes(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def refused(n: int) -> int:
        ran.append(n)
        assert go.wait(30)
        raise ValueError(f"no {n}")

    subject = keyed(refused)
    set_after_reads(monkeypatch, 3, go)
    found = both([lambda: subject(7)] * 4)
    assert [(type(error), str(error)) for error in found] == [(ValueError, "no 7")] * 4
    assert ran == [7]
    with pytest.raises(ValueError, match="no 7"):
        subject(7)
    assert ran == [7, 7]
    assert entry(subject)[1].epoch == 2


def test_an_event_loop_goes_on_while_its_tasks_wait_for_keys() -> None:
    subject = keyed(adouble)

    async def main() -> tuple[list[int], int]:
        turns, ended = 0, asyncio.Event()

        async def turn() -> None:
            nonlocal turns
            while not ended.is_set():
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        results = await asyncio.gather(*(subject(9) for _ in range(30)))
        ended.set()
        await turning
        return results, turns

    results, turns = asyncio.run(main())
    assert results == [18] * 30
    assert ran == [9]
    assert turns > 30


def test_retries_in_place_keep_the_intent() -> None:
    seen: list[tuple[str, int | None, int]] = []

    def shaky(n: int) -> int:
        run = get_run_context()
        seen.append((run.idempotency_key, run.fencing_token, run.attempt))
        if len(seen) < 3:
            raise ValueError(n)
        return n

    subject = keyed(shaky, retries=2)
    assert subject(1) == 1
    key, record = entry(subject)
    assert seen == [(key.key, 1, 1), (key.key, 1, 2), (key.key, 1, 3)]
    assert record.epoch == 1


def test_what_a_run_may_ask_of_itself() -> None:
    def asks(n: int) -> list[Any]:
        assert (task_run.idempotency_key, task_run.fencing_token) == (
            get_run_context().idempotency_key,
            get_run_context().fencing_token,
        )
        get_run_context().guard()
        return [task_run.fencing_token, task_run.attempt, task_run.cancelled, (task_run.deadline or 0) > 0]

    subject = keyed(asks, timeout_seconds=60)
    assert subject(1) == [1, 1, False, True]
    assert entry(subject)[1].evidence["guard"] > 0
    with pytest.raises(MissingContextError):
        get_run_context()
    assert task_run.idempotency_key is None

    @task(name="keyed-not")
    def plain() -> tuple[Any, ...]:
        get_run_context().guard()
        return task_run.idempotency_key, str(task_run.id) != "", task_run.fencing_token, task_run.deadline

    key, *others = plain()
    assert key
    assert others == [True, None, None]


def test_a_guard_ends_code_whose_intent_is_somebody_else_s() -> None:
    """What happened instead counts: here a person said that it was done."""
    register = backends.current().register

    def late(n: int) -> int:
        (key,) = [key for key in register.all_keys() if key.task == "keyed-late"]
        found = register.read(key)
        parked = register.change(key, found, RegisterEvent.PARK, ONCE)
        sealed = backends.current().codec.encode(70, "result", register.path(key))
        done = register.change(key, parked, RegisterEvent.APPLIED, ONCE, outcome="completed", result=sealed)
        assert done is not None
        get_run_context().guard()
        ran.append("after the guard")
        return n

    subject = keyed(late)
    state: State = subject(7, return_state=True)
    assert (state.name, state.result(), ran) == ("Completed", 70, [])  # it was this very run's effect


def test_a_time_limit_leaves_it_in_doubt_and_no_retry_repeats_it() -> None:
    def slow(n: int) -> None:
        ran.append(n)
        threading.Event().wait(30)

    subject = keyed(slow, timeout_seconds=0.2, retries=3)
    for _ in range(2):
        with pytest.raises(ParkedRun, match="its time limit ended it while it ran"):
            subject(1)
    assert ran == [1]
    assert issubclass(ParkedRun, PausedRun)
    assert entry(subject)[1].evidence["ended"] is True
    again = keyed(slow, EffectClass.IDEMPOTENT, timeout_seconds=0.05, retries=2)
    with pytest.raises(TimeoutError):
        again(2)
    assert ran == [1, 2, 2, 2]


def test_a_result_that_cannot_be_kept_is_an_error_and_no_second_effect() -> None:
    def opens(n: int) -> Any:
        ran.append(n)
        return threading.Lock()

    subject = keyed(opens)
    with pytest.raises(SerializationError):
        subject(1)
    with pytest.raises(MissingResult, match="its result cannot be kept"):
        subject(1)
    assert ran == [1]
    pure = keyed(opens, EffectClass.PURE)
    pure(2)
    pure(2)
    assert ran == [1, 2, 2]


@pytest.mark.parametrize("effect", [EffectClass.PURE, ONCE])
def test_a_result_is_used_until_it_expires_by_the_store_s_clock(
    effect: EffectClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends.current()
    now = backend.store_time()
    monkeypatch.setattr(backend, "store_time", lambda: now)
    subject = keyed(double, effect, cache_expiration=timedelta(minutes=5))
    subject(1)
    now += 299
    assert subject(1, return_state=True).name == "Cached"
    now += 2
    assert subject(1, return_state=True).name == "Completed"
    assert subject(1, return_state=True).name == "Cached"
    assert ran == [1, 1]
    assert entry(subject)[1].epoch == 2


@pytest.mark.parametrize("effect", [EffectClass.PURE, ONCE])
def test_a_refresh_executes_and_replaces(effect: EffectClass) -> None:
    keyed(double, effect)(1)
    subject = keyed(double, effect, refresh_cache=True)
    assert subject(1, return_state=True).name == "Completed"
    assert ran == [1, 1]
    assert keyed(double, effect)(1, return_state=True).name == "Cached"
    assert entry(subject)[1].epoch == 2


def test_of_two_pure_runs_the_faster_one_s_result_is_both_s() -> None:
    together = threading.Barrier(2)

    def draws(n: int) -> int:
        together.wait(30)
        ran.append(n)
        return len(ran) + 1000 * threading.get_ident()

    subject = keyed(draws, EffectClass.PURE)
    one, other = both([lambda: subject(1)] * 2)
    assert one == other == subject(1)
    assert ran == [1, 1]


def test_what_was_buried_is_not_repeated() -> None:
    subject, pure = keyed(double), keyed(double, EffectClass.PURE)
    subject(1)
    register = backends.current().register
    key, _ = entry(subject)
    assert register.change(key, register.read(key), RegisterEvent.BURY, ONCE, result=b"") is not None
    with pytest.raises(KeyExpired, match="it is not repeated"):
        subject(1)
    assert ran == [1]
    assert pure(1) == 2
    assert ran == [1, 1]
