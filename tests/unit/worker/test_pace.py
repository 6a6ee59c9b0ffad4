"""How many runs a claim asks for, by the durations seen of each task."""

from __future__ import annotations

from kapstan.worker.board import MAX_BATCH
from kapstan.worker.pace import BUDGET, Pace

SHORT, OTHER = "shop:short", "shop:other"


def settled(seconds: float) -> Pace:
    pace = Pace()
    for _ in range(60):
        pace.observe(SHORT, seconds, 1, seconds)
    return pace


def test_of_a_task_that_was_never_seen_nothing_is_asked_beyond_the_default() -> None:
    assert Pace().most == {}
    assert not Pace().brisk(SHORT)


def test_short_runs_come_in_batches_of_five_milliseconds() -> None:
    assert settled(0.000_01).most == {SHORT: MAX_BATCH}
    assert settled(0.000_4).most == {SHORT: 12}
    assert settled(0.1).most == {SHORT: 1}


def test_a_long_run_counts_at_once_and_fades() -> None:
    pace = settled(0.000_01)
    pace.observe(SHORT, 0.1, 50, 0.099)
    assert pace.most == {SHORT: 1}
    assert not pace.brisk(SHORT)
    batches = 0
    while pace.most[SHORT] < MAX_BATCH:
        pace.observe(SHORT, 0.000_01 * pace.most[SHORT], pace.most[SHORT], 0.000_01)
        batches += 1
    assert 10 < batches < 60


def test_many_shorter_ones_in_a_batch_count_by_their_mean() -> None:
    pace = settled(0.000_01)
    pace.observe(SHORT, 0.004, 2, BUDGET / 2)
    assert pace.most == {SHORT: 2}


def test_a_long_task_makes_no_short_one_slow() -> None:
    pace = settled(0.000_01)
    before = pace.most
    pace.observe(OTHER, 0.1, 1, 0.1)
    assert pace.most == {SHORT: MAX_BATCH, OTHER: 1}
    assert (pace.brisk(SHORT), pace.brisk(OTHER)) == (True, False)
    assert before == {SHORT: MAX_BATCH}, "what was asked stays what it was"
