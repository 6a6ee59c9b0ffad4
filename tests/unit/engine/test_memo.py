from __future__ import annotations

from kapstan.engine.memo import Memo
from kapstan.journal import TaskOutcome

KEY, INNER, TASK = "0" * 22, "1" * 22, "2" * 22


def outcome(key: str, state: str = "COMPLETED", position: str = "|0") -> TaskOutcome:
    return TaskOutcome(key=key, task="m:a", name="a", state=state, position=position)


def test_an_outcome_of_an_earlier_attempt_is_handed_out_once() -> None:
    memo = Memo({KEY: outcome(KEY)})
    assert memo.take(KEY, None) == outcome(KEY)
    assert memo.take(KEY, None) is None
    assert memo.unmatched == 0


def test_a_retried_task_finds_what_its_calls_completed_until_it_ends() -> None:
    memo = Memo({})
    memo.keep(outcome(INNER), TASK)
    assert memo.take(INNER, TASK) == memo.take(INNER, TASK) == outcome(INNER)
    assert memo.take(INNER, None) is None
    memo.keep(outcome(TASK), None)
    assert memo.take(INNER, TASK) is None


def test_a_retried_task_makes_calls_again_that_failed() -> None:
    memo = Memo({})
    memo.keep(outcome(INNER, "FAILED"), TASK)
    assert memo.take(INNER, TASK) is None


def test_the_same_call_with_other_inputs_is_found_by_its_position() -> None:
    memo = Memo({KEY: outcome(KEY, position="|1")})
    assert memo.other_inputs("m:a", "|0") is None
    assert memo.other_inputs("m:b", "|1") is None
    assert memo.other_inputs("m:a", "|1") == outcome(KEY, position="|1")
    memo.take(KEY, None)  # the call that it belongs to was made: nothing is missing
    assert memo.other_inputs("m:a", "|1") is None
