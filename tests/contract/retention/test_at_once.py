"""A sweep that dies at any step, and sweeps beside resumes, writers and other sweeps."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.contract.retention.makers import AGES, ALL, LARGE, Shop

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import Fenced, RunExpired
from kapstan.ids import derived_id
from kapstan.journal import TaskOutcome, read_journal
from kapstan.runs import sweep as sweep_module
from kapstan.runs.retention import Kept
from kapstan.runs.sweep import Sweep


def test_a_sweep_that_is_killed_at_any_step_leaves_a_whole_run_or_one_that_the_next_finishes(shop: Shop) -> None:
    kinds: set[str] = set()
    for step in range(1, 40):
        run_id = shop.run(tasks=3)
        child = shop.run(run_id=derived_id("memo", run_id), caller=run_id, tasks=1)
        living = shop.run("", tasks=1)
        shop.later = 31
        died = killed(shop, step)
        for one in (run_id, child):
            history = read_journal(shop.store, shop.backend.codec, one)
            assert history.end is not None, "it can be read at every moment"
            if history.buried:
                kinds.add("buried")
                with pytest.raises(RunExpired):
                    shop.begin(one, attempt=2)
            elif history.attempts:
                kinds.add("whole")
                assert len(history.outcomes) == (3 if one == run_id else 1)
                assert len(list(shop.store.keys(f"values/{one}/"))) >= len(history.outcomes)
        assert shop.left(living) == ALL
        shop.sweep()
        assert shop.left(run_id) | shop.left(child) == {"grave"}, f"killed before change {step}"
        assert not shop.sweep().items
        shop.later = 0
        if not died:
            assert step > 5, "the fault bites"
            assert kinds == {"buried", "whole"}
            return
    raise AssertionError("a sweep of two runs needs more than 40 changes")


def killed(shop: Shop, step: int) -> bool:
    """Whether a sweep in a process of its own came to its ``step``-th change."""
    settings = json.dumps(dataclasses.asdict(shop.backend.settings))
    command = [sys.executable, str(Path(__file__).with_name("dying.py")), settings, str(shop.now), str(step)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


def test_sweeps_at_once_are_one(shop: Shop) -> None:
    ended = [shop.run(tasks=1) for _ in range(8)]
    open_ = shop.run("")
    shop.later = 31
    others = [Shop(Backend(shop.backend.settings)) for _ in range(3)]
    for other in others:
        other.later = 31
    with ThreadPoolExecutor(3) as pool:
        for report in pool.map(lambda other: other.sweep(), others):
            assert not report.refused
    for other in others:
        other.backend.close()
    assert [shop.left(run_id) for run_id in ended] == [{"grave"}] * 8
    assert shop.left(open_) == ALL
    assert not shop.sweep().items


def test_a_run_that_is_resumed_between_look_and_burial_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = shop.run("Failed")
    bury = sweep_module.bury

    def late(*arguments: Any) -> None:
        _, journal = shop.begin(run_id, attempt=2)
        journal.close()
        bury(*arguments)

    monkeypatch.setattr(sweep_module, "bury", late)
    shop.later = 31
    report = shop.sweep()
    assert report.kept == {Kept.CHANGED: 1}
    assert not report.items
    assert shop.left(run_id) == ALL
    assert len(read_journal(shop.store, shop.backend.codec, run_id).outcomes) == 2


def test_resumes_and_sweeps_race_and_one_wins(shop: Shop) -> None:
    won = {"resume": 0, "sweep": 0}
    for _ in range(12):
        run_id = shop.run("Failed", tasks=1)
        shop.later = 31
        barrier = threading.Barrier(2)

        def resume(run_id: str = run_id, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                _, journal = shop.begin(run_id, attempt=2)
            except (RunExpired, Fenced):
                return False
            journal.append(TaskOutcome(derived_id(run_id, "more"), "shop:work", "work", "COMPLETED"))
            journal.close()
            return True

        with ThreadPoolExecutor(1) as pool:
            resuming = pool.submit(resume)
            sweep = Sweep(shop.backend, AGES, None, now=shop.now)
            barrier.wait()
            sweep.run()
        history = read_journal(shop.store, shop.backend.codec, run_id)
        if resuming.result():
            won["resume"] += 1
            assert not history.buried
            assert len(history.outcomes) == 2
            assert any(shop.store.keys(f"values/{run_id}/")), "what its journal names is there"
        else:
            won["sweep"] += 1
            assert history.buried
        shop.later = 0
    assert sum(won.values()) == 12


def test_a_run_that_writes_meanwhile_loses_nothing(shop: Shop) -> None:
    run_id, journal = shop.begin()
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            key = derived_id(run_id, str(len(written)))
            value = values.to_store(shop.backend, LARGE, "result", key, run_id)
            journal.append(TaskOutcome(key, "shop:work", "work", "COMPLETED", value=value))
            written.append(key)

    writer = threading.Thread(target=write)
    writer.start()
    shop.later = 31
    while len(written) < 80:
        shop.sweep()
    stop.set()
    writer.join()
    journal.close()
    outcomes = read_journal(shop.store, shop.backend.codec, run_id).outcomes
    assert list(outcomes) == written
    for key, outcome in outcomes.items():
        assert outcome.value is not None
        reference = shop.backend.codec.reference(outcome.value, "result", key)
        assert reference is not None
        assert shop.store.get(reference.key) is not None


def test_a_sweep_that_is_stopped_goes_on_later(shop: Shop) -> None:
    for _ in range(3):
        shop.run(tasks=0)
    shop.later = 31
    looks = iter([False, True])
    report = shop.sweep(stop=lambda: next(looks))
    assert report.stopped
    assert report.items["journal"] == 1
    assert shop.sweep().items["journal"] == 2
