"""Runs that wait for runs: no lane is held for what cannot go on, so they always end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start


@pytest.mark.parametrize("subject", [served.nested, served.anested])
def test_runs_that_delay_runs_and_wait_for_them_end_on_one_lane(start: Start, subject: Any) -> None:
    start(limit=1)
    assert subject.delay(5).result(timeout=60) == 5


def test_a_run_that_waits_for_its_arguments_holds_no_lane(start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=1)
    first = served.hold.delay("first", gate.path)
    sink.expect("began", "first")
    later = [served.mark.delay(first) for _ in range(3)]  # ready before what they wait for has ended
    served.mark.delay("behind")
    gate.open()
    assert [run.result(timeout=30) for run in later] == ["first"] * 3
    assert sorted(sink.next()[1] for _ in range(5)) == ["behind", "first", "first", "first", "first"]  # one ended


def test_the_order_in_which_runs_wait_for_each_other_does_not_matter(start: Start) -> None:
    slow = served.nap.apply_async((0,), countdown=1.0)  # ends last
    waiting = [served.identity.delay(slow) for _ in range(4)]
    start(limit=2)
    assert [run.result(timeout=30) for run in waiting] == [None] * 4
