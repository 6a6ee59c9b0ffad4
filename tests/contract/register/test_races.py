"""Registers under races of real processes, kill -9 in the middle of a write, lost replies and a store that is away."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import Minio, new_namespace

from kapstan.backend import Backend
from kapstan.errors import StoreRefused, StoreUnavailable
from kapstan.ports.register import RegisterEvent, RegisterKey, RegisterState
from kapstan.settings import Settings
from kapstan.states import EffectClass

ONCE = EffectClass.AT_MOST_ONCE
_E = RegisterEvent
WRITERS, KEYS = 8, 60


def process(setting: Settings, name: str, keys: int = KEYS, dies: str = "") -> subprocess.Popen[str]:
    """A racer that waits for its start."""
    here = Path(__file__).parents[3]
    further = [dies] if dies else []
    command = [sys.executable, "-m", "tests.contract.register.racer"]
    racing = subprocess.Popen(
        [*command, setting.home, setting.namespace, setting.s3_endpoint, str(keys), name, *further],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
    )
    assert racing.stdout is not None
    assert racing.stdout.readline() == "ready\n"
    return racing


@contextlib.contextmanager
def racing(setting: Settings, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    racers: list[subprocess.Popen[str]] = []
    try:
        racers += [process(setting, f"racer-{number}") for number in range(count)]
        yield racers
    finally:
        for each in racers:
            each.kill()
            each.communicate()


def test_of_eight_processes_exactly_one_wins_each_key(setting: Settings, backend: Backend) -> None:
    backend.register.read(RegisterKey("race:charge", "first"))  # the store is made and probed
    assert backend.codec
    with racing(setting, WRITERS) as racers:
        for each in racers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        won = {}
        for number, each in enumerate(racers):
            assert each.stdout is not None
            won[f"racer-{number}"] = json.loads(each.stdout.readline())
            assert each.wait() == 0
    counted = Counter(number for numbers in won.values() for number in numbers)
    assert counted == dict.fromkeys(range(KEYS), 1), "a key was won by none, or by several"
    for name, numbers in won.items():
        for number in numbers:
            entry = backend.register.read(RegisterKey("race:charge", f"key{number}"))
            assert entry is not None
            assert (entry.record.state, entry.record.epoch) == (RegisterState.COMMITTED, 1)
            assert (entry.record.result, entry.record.evidence) == (name.encode(), {"by": name})


@pytest.mark.parametrize("moment", ["half written", "before", "after"])
def test_a_process_that_is_killed_in_a_write_leaves_all_or_nothing(tmp_path: Path, moment: str) -> None:
    setting = Settings(home=str(tmp_path / "home"), namespace="killed")
    backend = Backend(setting)
    assert backend.codec
    key = RegisterKey("race:charge", "key0")
    dying = process(setting, "dying", 1, moment)
    assert dying.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        dying.communicate("go\n")
    assert dying.returncode == -9, "it was to die in the write"
    found = backend.register.read(key)
    if moment == "after":
        assert found is not None
        assert (found.record.state, found.record.evidence) == (RegisterState.INTENT, {"by": "dying"})
    else:
        assert found is None
        assert backend.register.change(key, None, _E.BEGIN, ONCE) is not None
    assert len(list(backend.register.all_keys())) == 1


@pytest.fixture
def proxied(minio: Minio, tmp_path: Path) -> Iterator[tuple[Backend, FaultProxy]]:
    proxy = FaultProxy(minio.url, {})
    with proxy.running():
        backend = Backend(minio.settings(proxy.url, home=str(tmp_path / "home"), namespace=new_namespace()))
        backend.register.read(RegisterKey("t", "first"))
        yield backend, proxy
        backend.close()


@pytest.mark.parametrize("fault", ["drop_reply", "cut_reply", "drop_request", "broken"])
def test_a_lost_reply_is_no_lost_race(proxied: tuple[Backend, FaultProxy], fault: str) -> None:
    backend, proxy = proxied
    register = backend.register
    for number in range(12):
        key = RegisterKey("t", f"k{number}")
        proxy.faults = {fault: 0.5}  # type: ignore[dict-item]
        intent = register.change(key, None, _E.BEGIN, ONCE)
        assert intent is not None, "one's own intent was taken for another's"
        committed = register.change(key, intent, _E.COMMIT, ONCE, result=b"42")
        assert committed is not None, "one's own commit was taken for another's"
        proxy.faults = {}
        assert register.read(key) == committed
    assert proxy.counts[fault] >= 5, f"the fault bit too seldom: {proxy.counts}"
    if fault in ("drop_reply", "cut_reply"):
        conditions = ("if-none-match", "if-match")
        assert proxy.counts["status_412"] >= 1, "no reply of a conditional write was lost"
        assert any(name in headers for _, _, headers in proxy.seen for name in conditions)


def test_a_write_that_arrives_after_its_writer_gave_up_changes_nothing_that_went_on(
    proxied: tuple[Backend, FaultProxy],
) -> None:
    backend, proxy = proxied
    register = backend.register
    key = RegisterKey("t", "late")
    intent = register.change(key, None, _E.BEGIN, ONCE)
    hasty = Backend(replace(backend.settings, store_deadline_seconds=0.1))
    try:
        hasty.register.read(key)
        proxy.faults = {"late": 1.0}
        with pytest.raises(StoreUnavailable):
            hasty.register.change(key, intent, _E.RELEASE, ONCE)
        proxy.faults = {}
        committed = register.change(key, intent, _E.COMMIT, ONCE, result=b"42")
        proxy.settle()
        assert proxy.counts["late"] >= 1
        assert any(name.startswith("late_") for name in proxy.counts), proxy.counts
        after = register.read(key)
        assert after is not None
        if committed is None:  # the late release was the first to arrive: it is the only one
            assert after.record.state is RegisterState.RELEASED
        else:
            assert after == committed
    finally:
        hasty.close()


def test_a_store_that_is_away_is_no_absent_register(own_minio: Minio, tmp_path: Path) -> None:
    backend = Backend(own_minio.settings(home=str(tmp_path / "home"), store_deadline_seconds=0.5))
    key = RegisterKey("t", "k")
    intent = backend.register.change(key, None, _E.BEGIN, ONCE)
    own_minio.kill()
    try:
        with pytest.raises(StoreUnavailable):
            backend.register.read(key)
        with pytest.raises(StoreUnavailable):
            backend.register.change(key, intent, _E.COMMIT, ONCE)
        own_minio.start()
        assert backend.register.read(key) == intent
    finally:
        backend.close()


def test_a_local_store_that_cannot_be_read_is_no_absent_register(tmp_path: Path) -> None:
    backend = Backend(Settings(home=str(tmp_path / "home"), namespace="n"))
    key = RegisterKey("t", "k")
    assert backend.register.change(key, None, _E.BEGIN, ONCE) is not None
    (found,) = (tmp_path / "home").rglob("objects/registers/t")
    (found / "k").rename(found / "moved")
    (found / "k").symlink_to(found / "k")  # a loop: the file system refuses to read it
    with pytest.raises(StoreRefused):
        backend.register.read(key)
    with pytest.raises(StoreRefused):
        backend.register.change(key, None, _E.BEGIN, ONCE)
