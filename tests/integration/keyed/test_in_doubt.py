"""Effects in doubt: who may take over, what a probe says, stores that are away, and code that is ended from outside."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.keyed import charging
from tests.integration.keyed.conftest import Processes
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import Minio, new_namespace

from kapstan import backend as backends
from kapstan.context import get_run_context
from kapstan.engine import limits, task_run
from kapstan.engine.cache_key import key_of as cache_key
from kapstan.engine.keyed import BEGUN, KeyedRun
from kapstan.errors import BackendError, HandBack, NotPossible, ParkedRun, StoreUnavailable
from kapstan.ports.register import Holder, RegisterEvent, RegisterKey, RegisterRecord, RegisterState
from kapstan.runs.parked import ParkedKeys
from kapstan.settings import Settings
from kapstan.states import Completed, EffectClass
from kapstan.tasks import Task

ONCE, AGAIN = EffectClass.AT_MOST_ONCE, EffectClass.IDEMPOTENT
ran: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    ran.clear()
    yield
    backends.use(None)


def keyed(fn: Any, effect: EffectClass = ONCE, **options: Any) -> Task[..., Any]:
    made = Task(fn, name=f"doubt-{fn.__name__}", effect=effect, **options)
    made.spec = replace(made.spec, cache_policy=charging.ByInputs())
    return made


def note(n: int) -> int:
    ran.append(n)
    return n


def key_of(task: str) -> RegisterKey:
    (key,) = [key for key in backends.current().register.all_keys() if key.task == task]
    return key


def record_of(task: str) -> RegisterRecord:
    found = backends.current().register.read(key_of(task))
    assert found is not None
    return found.record


def killed_in_the_body(setting: Settings, processes: Processes, folder: Path, order: str, name: str) -> None:
    asked = {"class": name, "folder": str(folder), "order": order}
    code, _ = processes.run(setting, environment={"DIES_IN_BODY": "1"}, **asked)
    assert code == -9
    assert len(charging.effects(folder, order)) == 1, "it was to die behind its effect"


@pytest.mark.parametrize("said", [41, Completed(data=41)])
def test_a_probe_that_knows_the_effect_gives_the_result(
    setting: Settings, processes: Processes, tmp_path: Path, said: Any
) -> None:
    killed_in_the_body(setting, processes, tmp_path, "p", "at_most_once")
    asked: list[str] = []

    def probe(key: str) -> Any:
        asked.append(key)
        return said

    subject = charging.keyed(charging.charge, effect=ONCE, probe=probe)
    assert subject(str(tmp_path), "p") == 41
    assert asked == [charging.effects(tmp_path, "p")[0][1]]
    assert len(charging.effects(tmp_path, "p")) == 1


def test_a_probe_that_knows_nothing_or_breaks_leaves_it_parked(
    setting: Settings, processes: Processes, tmp_path: Path
) -> None:
    killed_in_the_body(setting, processes, tmp_path, "p", "at_most_once")
    for probe in (lambda _: None, lambda _: 1 / 0):
        with pytest.raises(ParkedRun):
            charging.keyed(charging.charge, effect=ONCE, probe=probe)(str(tmp_path), "p")
    assert len(charging.effects(tmp_path, "p")) == 1


def test_a_probe_that_denies_the_effect_counts_when_the_horizon_is_over(
    setting: Settings, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in_the_body(setting, processes, tmp_path, "p", "at_most_once")
    backend, ahead = backends.current(), 0.0
    real = backend.store_time
    monkeypatch.setattr(backend, "store_time", lambda: real() + ahead)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal ahead
        slept.append(seconds)
        ahead += seconds

    monkeypatch.setattr(limits, "sleep", sleep)
    subject = charging.keyed(charging.charge, effect=ONCE, probe=lambda _: False, effect_horizon=60.0)
    assert subject(str(tmp_path), "p") == ["p", ""]
    assert 59 < sum(slept) < 63, "it did not wait for the horizon"
    assert [line[2] for line in charging.effects(tmp_path, "p")] == [1, 2]


def test_silence_is_no_death(setting: Settings, processes: Processes, tmp_path: Path) -> None:
    """A holder that is stopped may go on: nobody takes over, nobody parks, and nobody can say that it did nothing."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    asked = {"class": "idempotent", "folder": str(tmp_path), "order": "s"}
    pid, _ = processes.run(setting, leave=True, environment={"GATE": str(gate)}, **asked)
    while not charging.effects(tmp_path, "s"):
        time.sleep(0.002)
    os.kill(pid, signal.SIGSTOP)
    found: list[Any] = []
    call = partial(charging.of_class("idempotent"), str(tmp_path), "s")
    waiting = threading.Thread(target=lambda: found.append(call()), daemon=True)
    try:
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive(), "silence was taken for death"
        assert len(charging.effects(tmp_path, "s")) == 1
        with pytest.raises(NotPossible, match="not in doubt"):
            ParkedKeys(backends.current()).say_not_applied(key_of("keyed-charge"))
    finally:
        os.kill(pid, signal.SIGKILL)
    waiting.join(30)
    assert found == [["s", ""]]
    assert [line[2] for line in charging.effects(tmp_path, "s")] == [1, 2]


def test_a_receiver_that_may_have_forgotten_the_key_is_not_asked_again(
    setting: Settings, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in_the_body(setting, processes, tmp_path, "r", "idempotent")
    backend = backends.current()
    real = backend.store_time
    monkeypatch.setattr(backend, "store_time", lambda: real() + 23 * 3600 + 60)
    with pytest.raises(ParkedRun, match="may not know its key any more"):
        charging.of_class("idempotent")(str(tmp_path), "r")
    assert len(charging.effects(tmp_path, "r")) == 1


def test_of_two_that_decide_at_once_one_does(setting: Settings, processes: Processes, tmp_path: Path) -> None:
    killed_in_the_body(setting, processes, tmp_path, "d", "at_most_once")
    with pytest.raises(ParkedRun):
        charging.of_class("at_most_once")(str(tmp_path), "d")
    parked, together, said = ParkedKeys(backends.current()), threading.Barrier(2), list[str]()
    key = key_of("keyed-charge")
    read = parked._in_doubt  # pyright: ignore[reportPrivateUsage]

    def both_read(named: RegisterKey, epoch: int | None) -> Any:
        entry = read(named, epoch)
        together.wait(30)
        return entry

    parked._in_doubt = both_read  # type: ignore[method-assign]

    def decide(act: Any) -> None:
        try:
            act()
            said.append("done")
        except NotPossible as error:
            said.append(str(error))

    acts = [lambda: parked.say_applied(key, 1), lambda: parked.say_not_applied(key)]
    threads = [threading.Thread(target=decide, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(word == "done" for word in said) == [False, True]
    assert any("somebody else was faster" in word for word in said)


def test_a_holder_that_nobody_can_see_is_waited_for_until_a_person_says_that_it_has_ended(
    setting: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    subject = keyed(note)
    execution = task_run.prepare(subject.spec, (1,), {}, ())
    register = backends.current().register
    key = RegisterKey(subject.spec.identity, cache_key(execution))
    gone = Holder("3" * 22, "process", machine="another boot", pid=1, started=1, host="node-7")
    register.change(key, None, RegisterEvent.BEGIN, ONCE, holder=gone)
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(subject(1))
        except ParkedRun as error:
            found.append(str(error))

    waiting = threading.Thread(target=call, daemon=True)
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()
    assert "waits for a run on node-7, which holds its key" in caplog.text
    assert f"kapstan task-run resolve {key.key} --ended" in caplog.text
    parked = ParkedKeys(backends.current())
    parked.say_ended(parked.find(key.key))
    waiting.join(30)
    assert "a person says that its process has ended" in found[0]
    assert ran == []
    with pytest.raises(NotPossible, match="and not held"):
        parked.say_ended(key)


@pytest.mark.parametrize("effect", [ONCE, AGAIN])
def test_code_that_is_ended_from_outside(setting: Settings, effect: EffectClass) -> None:
    """At most once: nobody knows. Idempotent: its process says that it does no more, and another may begin."""

    def ends(n: int) -> None:
        ran.append(n)
        if len(ran) == 1:
            raise HandBack

    subject = keyed(ends, effect)
    with pytest.raises(HandBack):
        subject(1)
    register = backends.current().register
    while record_of("doubt-ends").state is RegisterState.INTENT:
        continue
    if effect is ONCE:
        assert "broken off by HandBack" in record_of("doubt-ends").evidence["why"]
        with pytest.raises(ParkedRun):
            subject(1)
        ParkedKeys(backends.current()).say_applied(key_of("doubt-ends"), "by hand")
        assert subject(1) == "by hand"
        assert ran == [1]
    else:
        assert subject(1) is None
        assert ran == [1, 1]
    assert register.read(key_of("doubt-ends")) is not None


def test_the_truth_of_the_run_itself_counts_though_it_was_parked(setting: Settings) -> None:
    def parks_itself(n: int) -> int:
        register = backends.current().register
        key = key_of("doubt-parks_itself")
        assert register.change(key, register.read(key), RegisterEvent.PARK, ONCE) is not None
        return n

    subject = keyed(parks_itself)
    assert subject(5) == 5
    assert record_of("doubt-parks_itself").state is RegisterState.COMMITTED


# ------------------------------------------------------------------ the store


@pytest.fixture
def proxied(minio: Minio, tmp_path: Path) -> Iterator[FaultProxy]:
    proxy = FaultProxy(minio.url, {})
    with proxy.running():
        home = str(tmp_path / "home")
        backends.use(minio.settings(proxy.url, home=home, namespace=new_namespace(), store_deadline_seconds=0.3))
        backends.current().store.get("first")
        backends.current().store_time()
        yield proxy
        proxy.faults = {}
        backends.use(None)


@pytest.mark.parametrize("fault", ["drop_reply", "cut_reply", "broken", "late"])
def test_calls_over_a_store_that_loses_replies_are_one_execution_each(proxied: FaultProxy, fault: str) -> None:
    backends.current().store._wire._deadline = 20.0  # type: ignore[attr-defined]
    subject = keyed(note)
    proxied.faults = {fault: 0.4}  # type: ignore[dict-item]
    for n in range(8):
        assert subject(n) == n
        assert subject(n) == n
    assert proxied.counts[fault] >= 8, proxied.counts
    proxied.settle()
    assert ran == list(range(8))


def test_nothing_is_executed_while_the_store_is_away(proxied: FaultProxy) -> None:
    subject, guarded = keyed(note), keyed(guarding)
    proxied.faults = {"drop_request": 1.0}
    with pytest.raises(StoreUnavailable):
        subject(1)
    assert ran == []
    assert proxied.counts["drop_request"] > 0
    proxied.faults = {}
    assert subject(1) == 1
    with pytest.raises(StoreUnavailable):
        guarded(proxied, 2)
    assert ran == [1]
    proxied.faults = {}


def guarding(proxy: FaultProxy, n: int) -> int:
    proxy.faults = {"unavailable": 1.0}
    try:
        get_run_context().guard()
    finally:
        proxy.faults = {}
    ran.append(n)
    return n


def test_an_intent_in_doubt_holds_nobody_up_for_long(proxied: FaultProxy) -> None:
    """The intent landed and its answer was lost until the caller was told so: another call of this process executes."""
    subject = keyed(note)
    proxied.faults = {"drop_reply": 1.0}
    with pytest.raises(StoreUnavailable):
        subject(1)
    assert ran == []
    proxied.faults = {}
    assert record_of("doubt-note").state in (RegisterState.INTENT, RegisterState.RELEASED)
    assert subject(1) == 1
    assert ran == [1]


def test_a_result_is_kept_though_its_caller_is_ended_while_it_waits_for_the_store(proxied: FaultProxy) -> None:
    def drops(n: int) -> int:
        ran.append(n)
        proxied.faults = {"drop_request": 1.0}
        return n

    subject, ended = keyed(drops), False

    def interrupt(seconds: float) -> None:
        nonlocal ended
        ended = True
        raise HandBack

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "sleep", interrupt)
        with pytest.raises(HandBack):
            subject(4)
    assert ended, "it did not wait"
    proxied.faults = {}
    while record_of("doubt-drops").state is RegisterState.INTENT:
        continue
    assert subject(4) == 4
    assert ran == [4]


def test_an_intent_in_doubt_is_taken_up_by_its_run_or_released_and_never_both(setting: Settings) -> None:
    """Its run asks again just when another call of this process is about to release it, since nothing came of it."""
    subject = keyed(note)
    execution = task_run.prepare(subject.spec, (1,), {}, ())
    backend, register = backends.current(), backends.current().register
    run = KeyedRun(execution, backend, RegisterKey(subject.spec.identity, "k" * 52))
    landed = register.change(run.key, None, RegisterEvent.BEGIN, ONCE, holder=run._holder)  # pyright: ignore
    assert landed is not None
    assert run.look() is BEGUN
    assert register.change(run.key, landed, RegisterEvent.RELEASE, ONCE) is None
    run.release(None)


def test_runs_whose_end_cannot_be_written_share_a_thread(proxied: FaultProxy) -> None:
    subject = keyed(note)
    assert subject(0) == 0
    proxied.faults = {"forbidden": 1.0}
    threads = threading.active_count()
    for number in range(1, 20):
        with pytest.raises(BackendError):
            subject(number)
    assert proxied.counts["forbidden"] >= 19, "the fault did not bite"
    assert threading.active_count() <= threads + 1
    assert ran == [0]


def test_a_result_that_the_store_does_not_take_is_kept_until_it_does(proxied: FaultProxy) -> None:
    def drops(n: int) -> int:
        ran.append(n)
        proxied.faults = {"drop_request": 1.0}
        threading.Timer(1.5, proxied.faults.clear).start()
        return n

    subject = keyed(drops)
    assert subject(4) == 4
    assert proxied.counts["drop_request"] >= 2, "the fault did not bite"
    assert subject(4) == 4
    assert ran == [4]
