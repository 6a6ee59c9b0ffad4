"""Random histories of runs with sweeps at random places, held against a model that says what may go."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.contract.retention.makers import ALL, LARGE, Shop

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.ids import RunId, derived_id, new_id
from kapstan.journal import Retry
from kapstan.runs.retention import DAY, Ages, Held
from kapstan.runs.sweep import Item, Sweep
from kapstan.settings import Settings

BEGUN = 1_000_000_000.0  # when the story begins: long before the real time that fresh files have
ENDS = st.sampled_from(["", "Completed", "Failed"])
AGES = Ages(runs=30 * DAY, keys=60 * DAY)


@dataclass
class Run:
    """What the model knows. ``last``: the day of its last record; ``gone``: the day on which it went."""

    run_id: RunId
    last: float
    caller: RunId = ""
    end: str = ""
    attempt: int = 1
    gone: float | None = None


class Histories(RuleBasedStateMachine):
    runs = Bundle("runs")

    @initialize()
    def begin_story(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kapstan-histories-"))
        self.backend = Backend(Settings(home=str(self.home)))
        self.shop = Shop(self.backend)
        self.day = 0.0
        self.known: dict[RunId, Run] = {}
        self.held: set[RunId] = set()
        self.orphans: dict[str, float] = {}

    def teardown(self) -> None:
        self.backend.close()
        shutil.rmtree(self.home)

    # ------------------------------------------------------------------ what happens

    @rule(target=runs, end=ENDS)
    def a_run_begins(self, end: str) -> RunId:
        return self._noted(Run(self.shop.run(end, tasks=1), self.day, end=end))

    @rule(target=runs, caller=runs, end=ENDS)
    def a_run_calls_another(self, caller: RunId, end: str) -> RunId:
        if self.known[caller].end:
            return caller
        called = derived_id("memo", caller, str(len(self.known)))
        self.shop.run(end, run_id=called, tasks=1, caller=caller)
        return self._noted(Run(called, self.day, caller, end=end))

    @rule(run_id=runs, end=st.sampled_from(["Completed", "Completed", "Failed", "Cancelled", "Suspended"]))
    def it_ends(self, run_id: RunId, end: str) -> None:
        run = self.known[run_id]
        if run.end:
            return
        run.attempt += 1
        self.shop.run(end, run_id=run_id, tasks=1, attempt=run.attempt, caller=run.caller)
        run.end, run.last = "" if end == "Suspended" else end, self.day
        self._stamp()

    @rule(run_id=runs)
    def a_person_resumes_it(self, run_id: RunId) -> None:
        run = self.known[run_id]
        if run.end != "Failed" or run.gone is not None:
            return
        run.attempt += 1
        _, journal = self.shop.begin(run_id, attempt=run.attempt, caller=run.caller)
        journal.append(Retry(0, 1.0, by_hand=True))
        journal.close()
        run.end, run.last = "", self.day
        self._stamp()

    @rule(run_id=runs)
    def its_object_is_applied_or_deleted(self, run_id: RunId) -> None:
        self.held ^= {run_id}

    @rule()
    def a_writer_dies_before_it_refers(self) -> None:
        values.to_store(self.backend, LARGE, "result", new_id())
        [key] = set(self.shop.store.keys("values/")) - self._values_known()
        self.orphans[key] = self.day
        self._stamp()

    @rule(days=st.sampled_from([0.0, 0.5, 7.0, 29.0, 31.0, 31.0, 61.0]))
    def time_passes_and_a_sweep_comes(self, days: float) -> None:
        self.day += days
        going = {run_id for run_id, run in self.known.items() if run.gone is None and self._may_go(run)}
        graves = {run.run_id for run in self.known.values() if run.gone is not None and self.day - run.gone >= 60}
        graves &= {run_id for run_id in self.known if "grave" in self.shop.left(run_id)}
        would = self._swept(dry_run=True)
        went = self._swept(dry_run=False)
        assert went == would
        assert {item.name for item in went if item.kind == "journal"} == going
        assert {item.name for item in went if item.kind == "grave"} == graves
        for run_id in going:
            self.known[run_id].gone = self.day
        gone = {key for key, since in self.orphans.items() if self.day - since >= 30}
        assert gone <= {item.name for item in went if item.kind == "value"}
        self.orphans = {key: since for key, since in self.orphans.items() if key not in gone}
        self._stamp()
        assert self._swept(dry_run=False) == []

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def nothing_of_a_run_that_stays_is_missing(self) -> None:
        for run_id, run in getattr(self, "known", {}).items():
            left = self.shop.left(run_id) - {"index"}
            if run.gone is None:
                assert left >= {"journal"}
                assert left <= ALL
                if not run.caller:
                    assert left == ALL - {"index"}
            else:
                assert left <= {"grave"}

    @invariant()
    def young_orphans_are_there(self) -> None:
        there = set(self.shop.store.keys("values/")) if hasattr(self, "shop") else set[str]()
        assert set(getattr(self, "orphans", {})) <= there

    # ------------------------------------------------------------------ helpers

    def _may_go(self, run: Run) -> bool:
        if run.gone is not None:
            return True
        old = self.day - run.last >= 30
        over = not run.caller or self._may_go(self.known[run.caller])
        return bool(run.end) and old and run.run_id not in self.held and over

    def _swept(self, *, dry_run: bool) -> list[Item]:
        items: list[Item] = []
        held, now = Held(frozenset(self.held)), BEGUN + self.day * DAY
        report = Sweep(self.backend, AGES, held, on_item=items.append, dry_run=dry_run, now=now).run()
        assert not report.refused
        return items

    def _noted(self, run: Run) -> RunId:
        self.known[run.run_id] = run
        self._stamp()
        return run.run_id

    def _values_known(self) -> set[str]:
        owned = {key for run_id in self.known for key in self.shop.store.keys(f"values/{run_id}/")}
        return owned | set(self.orphans)

    def _stamp(self) -> None:
        """What was written just now was written on this day."""
        at = BEGUN + self.day * DAY
        for path in (self.home / "store").rglob("*"):
            if path.is_file() and path.stat().st_mtime > 1.7e9:
                os.utime(path, (at, at))


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
