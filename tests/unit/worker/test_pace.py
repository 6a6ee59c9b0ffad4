"""How many runs a claim asks for, by the durations seen."""

from __future__ import annotations

from kapstan.worker.board import MAX_BATCH
from kapstan.worker.pace import BUDGET, Pace


def settled(seconds: float) -> Pace:
    pace = Pace()
    for _ in range(60):
        pace.observe(seconds, 1, seconds)
    return pace


def test_the_first_claim_asks_for_one_and_looks_no_further() -> None:
    assert Pace().want == 1
    assert not Pace().brisk


def test_short_runs_come_in_batches_of_five_milliseconds() -> None:
    assert settled(0.000_01).want == MAX_BATCH
    assert settled(0.000_4).want == 12
    assert settled(0.1).want == 1


def test_a_long_run_counts_at_once_and_fades() -> None:
    pace = settled(0.000_01)
    pace.observe(0.1, 50, 0.099)
    assert pace.want == 1
    assert not pace.brisk
    batches = 0
    while pace.want < MAX_BATCH:
        pace.observe(0.000_01 * pace.want, pace.want, 0.000_01)
        batches += 1
    assert 10 < batches < 60


def test_many_shorter_ones_in_a_batch_count_by_their_mean() -> None:
    pace = settled(0.000_01)
    pace.observe(0.004, 2, BUDGET / 2)
    assert pace.want == 2
