from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapstan import ids
from kapstan.ids import Token


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [ids.new_id() for _ in range(5000)]
    assert made == sorted(set(made))
    assert [ids.to_uuid(i) for i in made] == sorted(ids.to_uuid(i) for i in made)


def test_ids_made_at_once_are_as_good_as_those_made_one_by_one() -> None:
    made = [ids.new_id(), *ids.new_ids(3000), ids.new_id(), *ids.new_ids(1), ids.new_id()]
    assert ids.new_ids(0) == []
    assert made == sorted(set(made))
    assert {(len(i), ids.to_uuid(i).version, ids.to_uuid(i).variant) for i in made} == {(22, 7, uuid.RFC_4122)}
    assert len({i[-10:] for i in made}) == len(made), "each has random bits of its own"


def test_an_id_is_a_uuid_of_version_7_with_its_time() -> None:
    value = ids.to_uuid(ids.new_id(now_ns=1_700_000_000_123_000_000))
    assert value.version == 7
    assert value.int >> 80 == 1_700_000_000_123


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_the_short_form_keeps_value_and_order(a: int, b: int) -> None:
    assert ids.to_uuid(ids.encode(a)).int == a
    assert (ids.encode(a) < ids.encode(b)) == (a < b)
    assert ids.parse(str(uuid.UUID(int=a))) == ids.parse(ids.encode(a)) == ids.encode(a)


@pytest.mark.parametrize("text", ["", "x", "z" * 22, "not-a-uuid-at-all-but-36-characters-x", "é" * 22])
def test_what_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a run id"):
        ids.parse(text)


def test_a_derived_id_follows_from_its_parts_alone() -> None:
    assert ids.derived_id("run", "task") == ids.derived_id("run", "task")
    assert ids.derived_id("run", "task") != ids.derived_id("runtask")
    assert ids.to_uuid(ids.derived_id("run")).version == 8


def test_a_forked_child_makes_ids_of_its_own() -> None:
    ids.new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ids.new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(read, 64).decode(), ids.new_id()
    os.close(read)
    os.close(write)
    # The last ten characters are entropy only: equal ones would mean that the child drew from the parent's pool.
    assert theirs[-10:] != ours[-10:]


@given(st.tuples(st.integers(0, 999_999), st.integers(0, 99_999_999)))
def test_tokens_compare_as_text_as_they_compare_as_numbers(pair: tuple[int, int]) -> None:
    token = Token(*pair)
    assert Token.parse(str(token)) == token
    assert len(str(token)) == 14
    assert str(token) < str(Token(token.era, token.epoch + 1)) or token.epoch == 99_999_999


def test_a_run_name_is_two_words_and_follows_from_the_id() -> None:
    run = ids.new_id()
    assert ids.run_name(run) == ids.run_name(run)
    assert len({ids.run_name(ids.new_id()) for _ in range(200)}) > 150
