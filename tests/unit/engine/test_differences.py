"""What a resume that parks shows of the inputs."""

from __future__ import annotations

import pytest

from kapstan.engine import canonical


class Mute:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_the_arguments_that_differ_are_shown_old_and_new() -> None:
    before = canonical.described({"order": "a-17", "cents": 500, "at": [1, 2]})
    assert canonical.difference(before, {"order": "a-18", "cents": 500, "at": [1, 2]}) == "order: 'a-17' -> 'a-18'"
    assert canonical.difference(before, {"order": "a-17", "cents": 5, "new": 1}) == (
        "cents: 500 -> 5; new: (not kept) -> 1; at: [1, 2] -> (not given)"
    )
    assert canonical.difference("", {"order": 1}) == "other inputs"


def test_values_that_look_alike_differ_by_their_digest() -> None:
    before = canonical.described({"text": "x" * 5000 + "a"})
    assert canonical.difference(before, {"text": "x" * 5000 + "b"}).startswith("text: ")


@pytest.mark.parametrize("value", ["é" * 500, Mute(), list(range(999)), "\ud800"], ids=["text", "mute", "list", "half"])
def test_a_description_is_short_whatever_it_describes(value: object) -> None:
    for count in (1, 3, 40):
        described = canonical.described({f"a_rather_long_name_of_an_argument_{at}": value for at in range(count)})
        assert len(described.encode()) <= 200
