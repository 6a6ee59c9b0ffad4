"""The last lines of a run, on the board."""

from __future__ import annotations

import logging

import pytest

from kapstan.engine.key_intent import open_intents
from kapstan.ids import Token, new_id
from kapstan.ports import Claim
from kapstan.states import EffectClass
from kapstan.worker.board import Board, Slot
from kapstan.worker.last_lines import FlowLines, LastLines, Tail

ONCE = EffectClass.AT_MOST_ONCE


def begin(slot: Slot, effect: EffectClass) -> str:
    run_id = new_id()
    slot.load([Claim(run_id, "t", Token(1, 1), 1, 0, effect, b"")], 0, under_way=False)
    slot.begin(0, effect, 1.0)
    return run_id


@pytest.fixture
def slot() -> Slot:
    return Board(2).slots[0]


@pytest.fixture
def logger(slot: Slot) -> logging.Logger:
    made = logging.Logger("last-lines")
    made.addHandler(LastLines(slot))
    return made


def said(slot: Slot, run_id: str) -> list[str]:
    return [line.split(" ", 3)[3] for line in slot.last_lines(run_id)]


def test_the_last_ten_lines_of_a_run_are_there(slot: Slot, logger: logging.Logger) -> None:
    run_id = begin(slot, ONCE)
    assert slot.last_lines(run_id) == []
    for number in range(12):
        logger.info("line %d\nand its traceback", number)
    assert said(slot, run_id) == [f"line {number}" for number in range(2, 12)]
    assert slot.last_lines(new_id()) == []


def test_lines_of_another_run_are_not_taken_for_its_own(slot: Slot, logger: logging.Logger) -> None:
    first = begin(slot, ONCE)
    logger.error("one")
    second = begin(slot, ONCE)
    assert slot.last_lines(second) == []
    logger.error("two")
    assert (said(slot, second), slot.last_lines(first)) == (["two"], [])


def test_long_lines_fit_and_spoil_nothing_behind_them(slot: Slot, logger: logging.Logger) -> None:
    run_id = begin(slot, ONCE)
    for _ in range(10):
        logger.error("\N{SNOWMAN}" * 1000)
    lines = said(slot, run_id)
    assert 1 <= len(lines) < 10
    assert all(set(line) == {"\N{SNOWMAN}"} for line in lines)
    slot.clear()
    assert slot.last_lines(run_id) == []


def test_a_pure_run_and_no_run_leave_nothing(slot: Slot, logger: logging.Logger) -> None:
    run_id = begin(slot, EffectClass.PURE)
    logger.error("pure")
    slot.rest()
    logger.error("none")
    logger.error("%d", "a line that cannot be made")
    assert slot.last_lines(run_id) == []


def test_of_a_flow_they_are_those_that_it_logs_while_it_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    tail, logger = Tail(), logging.Logger("last-lines")
    logger.addHandler(FlowLines(tail))
    logger.error("before")
    assert tail.lines() == []
    monkeypatch.setitem(open_intents, "a nonce", True)
    for number in range(12):
        logger.info("line %d", number)
    logger.error("\N{SNOWMAN}" * 1000)
    logger.error("%d", "a line that cannot be made")
    monkeypatch.delitem(open_intents, "a nonce")
    logger.error("after")
    *lines, last = [line.split(" ", 3)[3] for line in tail.lines()]
    assert lines == [f"line {number}" for number in range(3, 12)]
    assert set(last) == {"\N{SNOWMAN}"}
    assert len(last) < 300
