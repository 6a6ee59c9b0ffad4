from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from kapstan.engine.memo import Memo

RUN, OTHER = "0" * 22, "1" * 22


def test_keys_are_the_same_in_the_next_attempt() -> None:
    first, second = Memo(RUN, {}), Memo(RUN, {})
    calls = [("", "m:a", {"x": 1}), ("", "m:a", {"x": 2}), ("", "m:b", {"x": 1}), ("k", "m:a", {"x": 1})]
    keys = [first.key(*call)[0] for call in calls]
    assert len(set(keys)) == len(calls)
    assert [second.key(*call)[0] for call in reversed(calls)] == keys[::-1]


def test_equal_calls_are_told_apart_by_their_number() -> None:
    memo = Memo(RUN, {})
    keys = [memo.key("", "m:a", {"x": 1})[0] for _ in range(3)]
    assert len(set(keys)) == 3
    again = Memo(RUN, {})
    assert [again.key("", "m:a", {"x": 1})[0] for _ in range(3)] == keys


def test_another_run_has_other_keys() -> None:
    assert Memo(RUN, {}).key("", "m:a", {})[0] != Memo(OTHER, {}).key("", "m:a", {})[0]


def test_an_outcome_is_handed_out_once() -> None:
    key = Memo(RUN, {}).key("", "m:a", {})[0]
    memo = Memo(RUN, {key: "outcome"})
    assert memo.take(key) == "outcome"
    assert memo.take(key) is None
    assert memo.unmatched == 0


def test_threads_share_out_the_numbers() -> None:
    memo = Memo(RUN, {})
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: memo.key("", "m:a", {"x": 1})[0], range(200)))
    alone = Memo(RUN, {})
    assert set(keys) == {alone.key("", "m:a", {"x": 1})[0] for _ in range(200)}
