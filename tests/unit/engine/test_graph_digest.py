"""One digest for one graph, in time and space that grow as the graph does."""

from __future__ import annotations

import itertools
import pickle
import random
from typing import Any

import pytest

from kapstan.engine import canonical
from kapstan.engine.graph_digest import Node, fold


def digest(value: object) -> str:
    return canonical.digest({"value": value})


class Item:
    """A node of a tree or a list, that knows its neighbours."""

    def __init__(self, name: Any = None) -> None:
        self.name = name
        self.before: Item | None = None
        self.after: Item | None = None
        self.inside: list[Item] = []
        self.beside: set[Item] = set()


def chain(names: list[Any]) -> list[Item]:
    items = [Item(name) for name in names]
    for left, right in itertools.pairwise(items):
        left.after, right.before = right, left
    return items


def ring(names: list[Any]) -> list[Item]:
    items = chain(names)
    items[-1].after, items[0].before = items[0], items[-1]
    return items


def test_the_size_of_what_is_shared_counts_once() -> None:
    shared: list[Any] = ["x"]
    for _ in range(200):  # 2**200 ways lead to the inner list
        shared = [shared, shared]
    assert digest(shared) == digest(shared)
    assert len(canonical.encode(shared)) <= 48
    assert digest(shared) != digest([shared, shared])


def test_depth_has_no_limit() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    assert digest(deep) != digest([deep])
    while deep:  # Python's own freeing of such a list is recursive
        deep = deep.pop()


def test_sharing_plays_no_part_where_there_is_no_circle() -> None:
    shared = {"a": [1, 2]}
    assert digest([shared, shared]) == digest([{"a": [1, 2]}, {"a": [1, 2]}])


@pytest.mark.parametrize("make", [chain, ring])
def test_circles_are_told_by_what_they_hold(make: Any) -> None:
    values = {digest(make(names)[0]) for names in (["a", "b"], ["b", "a"], ["a", "b", "c"], ["a", "c", "b"])}
    assert len(values) == 4
    assert digest(make(["a", "b"])[0]) == digest(make(["a", "b"])[0])


def test_rings_of_equal_members_differ_by_their_number() -> None:
    assert len({digest(ring([0] * count)[0]) for count in range(1, 8)}) == 7


def test_where_a_circle_is_entered_counts() -> None:
    items = ring(["a", "b", "c"])
    assert len({digest(item) for item in items}) == 3
    assert len({digest([items[0], other]) for other in items}) == 3


def test_self_references_in_each_kind_of_container() -> None:
    def in_list() -> list[Any]:
        made: list[Any] = [1]
        made.append(made)
        return made

    def in_dict() -> dict[str, Any]:
        made: dict[str, Any] = {"a": 1}
        made["self"] = made
        return made

    def in_object() -> Item:
        made = Item("x")
        made.before = made
        return made

    for make in (in_list, in_dict, in_object):
        assert digest(make()) == digest(make()) == digest(pickle.loads(pickle.dumps(make())))
    assert len({digest(make()) for make in (in_list, in_dict, in_object)}) == 3


def test_a_long_chain_and_all_its_members() -> None:
    """Each member is referred to from outside, too: written out from each of them it would be 100 million steps."""
    items = chain(list(range(5_000)))
    assert digest(items) == digest(chain(list(range(5_000))))


def test_sets_of_objects_that_know_each_other() -> None:
    def neighbours(names: str, seed: int) -> Item:
        items = [Item(name) for name in names]
        shuffled = list(items)
        random.Random(seed).shuffle(shuffled)
        for item in shuffled:
            for other in shuffled:
                item.beside.add(other)
        return items[0]

    digests = {digest(neighbours("abcdef", seed)) for seed in range(5)}
    assert len(digests) == 1
    assert digest(neighbours("abcdeg", 1)) not in digests


def test_a_set_whose_members_cannot_be_told_apart_is_refused() -> None:
    twins = [Item("a"), Item("a")]
    for item in twins:
        item.beside.update(twins)
    assert canonical.unkeyable(twins) == ["a set of objects that refer to each other and look alike"]


def test_the_order_in_which_nodes_are_given_plays_no_part() -> None:
    """A random graph with circles, numbered in another way, folds to the same bytes."""
    source = random.Random(20261128)
    for _ in range(200):
        size = source.randint(2, 9)
        labels = [source.choice([b"a", b"b"]) for _ in range(size)]
        links = [[source.randrange(size) for _ in range(source.randint(0, 3))] for _ in range(size)]
        order = [0, *source.sample(range(1, size), size - 1)]
        place = {old: new for new, old in enumerate(order)}
        first = [Node(label, list(children)) for label, children in zip(labels, links, strict=True)]
        second = [Node(labels[old], [place[child] for child in links[old]]) for old in order]
        assert fold(first) == fold(second)
