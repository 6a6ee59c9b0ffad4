"""What a supervisor reads from the memory that a child wrote, after every step and after its death."""

from __future__ import annotations

import os

from kapstan.ids import Token, new_id
from kapstan.ports import Claim
from kapstan.worker.board import MAX_BATCH, Board, Order


def claims(count: int) -> list[Claim]:
    return [Claim(new_id(), "m:f", Token(7, n + 1), 1, 0, "p", b"") for n in range(count)]


def test_a_child_that_died_leaves_behind_what_it_was_executing() -> None:
    board = Board(2)
    runs = claims(3)
    pid = os.fork()
    if pid == 0:
        slot = board.slots[1]
        slot.load(runs, 0, under_way=False)
        slot.begin(1, "a", 12.5)
        os._exit(9)
    os.waitpid(pid, 0)
    executing = board.slots[1].executing()
    assert executing == (runs[1].run_id, runs[1].token, "a", 12.5)
    assert board.slots[0].executing() is None


def test_finished_and_executing_runs_are_kept_the_others_wait() -> None:
    slot = Board(1).slots[0]
    runs = claims(4)
    slot.load(runs, 1, under_way=False)
    slot.begin(2, "p", 1.0)
    assert slot.kept() == [run.run_id for run in runs[:3]]
    assert slot.held() == [(run.run_id, run.token) for run in runs]
    assert slot.waiting()
    slot.begin(3, "p", 1.0)
    assert not slot.waiting()
    slot.load(runs[:1], 0, under_way=True)
    slot.begin(0, "p", 1.0)
    assert slot.waiting()


def test_a_full_batch_behind_a_full_batch_of_outcomes_fits() -> None:
    board = Board(2)
    runs = claims(2 * MAX_BATCH)
    board.slots[1].load(claims(1), 0, under_way=False)
    board.slots[0].load(runs, MAX_BATCH, under_way=True)
    board.slots[0].begin(2 * MAX_BATCH - 1, "p", 3.0)
    assert board.slots[0].held() == [(run.run_id, run.token) for run in runs]
    assert len(board.slots[1].held()) == 1


def test_orders_and_progress_do_not_disturb_each_other() -> None:
    slot = Board(1).slots[0]
    (run,) = claims(1)
    slot.order = Order.DRAIN
    slot.cancel = run.run_id
    slot.recalled = True
    slot.load([run], 0, under_way=False)
    slot.begin(0, "p", 1.0)
    slot.rest()
    assert (slot.order, slot.cancel, slot.recalled) == (Order.DRAIN, run.run_id, True)
    slot.clear()
    assert (slot.order, slot.cancel, slot.recalled, slot.held()) == (Order.SERVE, "", False, [])
