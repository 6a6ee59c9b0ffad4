"""One digest for a graph of values: linear in its size, whatever is shared and whatever refers back to itself.

``canonical`` turns a value into nodes; this file folds them. What no circle touches is folded from the leaves up, so
that a value that stands in two places counts as two equal values do. A circle is written out once, from a node that
can be told from the others (or, where all look alike, from the node that is referred to from outside).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

_INLINE = 48
"""Up to so many bytes a node stands as it is in the node above, longer ones as their hash."""
_ROUNDS = 64
"""How often the nodes of a circle are compared by what they refer to before they count as alike."""

Child = bytes | int
"""What a node holds: bytes that are done, or the index of another node."""


class Node:
    """Attributes:
    label: what it is, apart from its children.
    children: in order.
    group: 0: the order counts. 1: a set. 2: a dict, key and value by turns, whose pairs have no order.
    """

    __slots__ = ("children", "group", "label")

    def __init__(self, label: bytes, children: list[Child], group: int = 0) -> None:
        self.label = label
        self.children = children
        self.group = group


class Ambiguous(Exception):
    """Elements of a set refer to the set itself and cannot be told apart, so they have no order."""


def fold(nodes: Sequence[Node]) -> bytes:
    """The canonical bytes of ``nodes[0]``.

    Raises:
        Ambiguous: see there.
    """
    done: list[bytes | None] = [None] * len(nodes)
    if len(nodes) == 1 and not any(isinstance(child, int) for child in nodes[0].children):
        return folded(nodes[0])
    above: list[list[int]] = [[] for _ in nodes]
    open_children = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for child in node.children:
            if isinstance(child, int):
                above[child].append(index)
                open_children[index] += 1
    ready = [index for index, count in enumerate(open_children) if not count]
    while ready:
        index = ready.pop()
        done[index] = folded(nodes[index])
        for parent in above[index]:
            open_children[parent] -= 1
            if not open_children[parent]:
                nodes[parent].children = [_resolved(child, done) for child in nodes[parent].children]
                ready.append(parent)
    if done[0] is None:
        for circle in _circles(nodes, done):
            _fold_circle(nodes, done, circle, above)
    top = done[0]
    assert top is not None
    return top


def folded(node: Node) -> bytes:
    """The bytes of a node all of whose children are done."""
    return short(framed(node.label, _in_order(cast("list[bytes]", node.children), node.group)))


def short(body: bytes) -> bytes:
    """``body``, or its hash where that is shorter."""
    return body if len(body) <= _INLINE else b"#" + hashlib.sha256(body).digest()


def framed(label: bytes, parts: Sequence[bytes]) -> bytes:
    return b"%b%d(%b)" % (label, len(parts), b"".join([b"%d:%b" % (len(part), part) for part in parts]))


def _in_order(parts: list[bytes], group: int) -> list[bytes]:
    if group == 0:
        return parts
    if group == 1:
        return sorted(parts)
    return [part for pair in sorted(zip(parts[::2], parts[1::2], strict=True)) for part in pair]


def _resolved(child: Child, done: list[bytes | None]) -> Child:
    known = done[child] if isinstance(child, int) else child
    assert known is not None
    return known


# ---------------------------------------------------------------------------------------------- circles


def _circles(nodes: Sequence[Node], done: list[bytes | None]) -> list[list[int]]:
    """The strongly connected parts of what is not done, each before those that refer to it (Tarjan, without recursion:
    the graph may be deeper than Python's stack)."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for start in range(len(nodes)):
        if start in number or done[start] is not None:
            continue
        path: list[tuple[int, list[int]]] = [(start, _open(nodes[start], done))]
        while path:
            index, children = path[-1]
            if index not in number:
                number[index] = low[index] = len(number)
                stack.append(index)
                on_stack.add(index)
            if children:
                child = children.pop()
                if child not in number:
                    path.append((child, _open(nodes[child], done)))
                elif child in on_stack:
                    low[index] = min(low[index], number[child])
                continue
            path.pop()
            if path:
                low[path[-1][0]] = min(low[path[-1][0]], low[index])
            if low[index] == number[index]:
                at = _last(stack, index)
                found.append(stack[at:])
                on_stack.difference_update(stack[at:])
                del stack[at:]
    return found


def _last(stack: list[int], index: int) -> int:
    at = len(stack) - 1
    while stack[at] != index:
        at -= 1
    return at


def _open(node: Node, done: list[bytes | None]) -> list[int]:
    return [child for child in node.children if isinstance(child, int) and done[child] is None]


def _fold_circle(nodes: Sequence[Node], done: list[bytes | None], circle: list[int], above: list[list[int]]) -> None:
    """Fold the nodes of ``circle``, whose children outside of it are done."""
    for index in circle:
        nodes[index].children = [
            known if isinstance(child, int) and (known := done[child]) is not None else child
            for child in nodes[index].children
        ]
    if len(circle) == 1 and circle[0] not in nodes[circle[0]].children:
        done[circle[0]] = folded(nodes[circle[0]])
        return
    colours = _colours(nodes, circle)
    for index in circle:
        nodes[index].children = _by_colour(nodes[index], colours)
        nodes[index].group = 0
    first = _singled_out(circle, colours)
    if first is not None:
        numbers, digest = _written_out(nodes, first)
        for index in circle:
            done[index] = b"~" + hashlib.sha256(b"%b%d" % (digest, numbers[index])).digest()
        return
    inside = set(circle)
    for index in circle:
        if index == 0 or any(parent not in inside for parent in above[index]):
            done[index] = b"~" + _written_out(nodes, index)[1]


def _colours(nodes: Sequence[Node], circle: list[int]) -> dict[int, bytes]:
    """What tells the nodes of a circle apart: their own content, then that of what they refer to, and so on until one
    of them is unlike all others and every set has an order, or nothing new is told apart."""
    colours = dict.fromkeys(circle, b"*")
    count = 0
    for _ in range(_ROUNDS):
        fresh: dict[int, bytes] = {}
        for index in circle:
            parts = [colours[child] if isinstance(child, int) else child for child in nodes[index].children]
            body = framed(colours[index] + nodes[index].label, _in_order(parts, nodes[index].group))
            fresh[index] = hashlib.sha256(body).digest()
        colours, before, count = fresh, count, len(set(fresh.values()))
        sets_in_order = all(_ordered(nodes[index], colours) for index in circle)
        if count == before or (sets_in_order and _singled_out(circle, colours) is not None):
            break
    return colours


def _ordered(node: Node, colours: dict[int, bytes]) -> bool:
    if node.group == 0:
        return True
    inside = [colours[child] for child in node.children[:: node.group] if isinstance(child, int)]
    return len(set(inside)) == len(inside)


def _singled_out(circle: list[int], colours: dict[int, bytes]) -> int | None:
    """The node whose colour nobody shares, the lowest such colour; None if there is none."""
    by_colour: dict[bytes, list[int]] = {}
    for index in circle:
        by_colour.setdefault(colours[index], []).append(index)
    return min(((colour, same[0]) for colour, same in by_colour.items() if len(same) == 1), default=(b"", None))[1]


def _by_colour(node: Node, colours: dict[int, bytes]) -> list[Child]:
    if node.group == 0:
        return node.children
    if not _ordered(node, colours):
        raise Ambiguous
    width = node.group
    chunks = [node.children[at : at + width] for at in range(0, len(node.children), width)]
    chunks.sort(key=lambda chunk: [colours[child] if isinstance(child, int) else child for child in chunk])
    return [child for chunk in chunks for child in chunk]


def _written_out(nodes: Sequence[Node], first: int) -> tuple[dict[int, int], bytes]:
    """The number of each node of a circle in the order in which they are met from ``first``, and the digest of the
    circle written out in that order."""
    numbers: dict[int, int] = {}
    body = hashlib.sha256()
    path = [first]
    waiting: list[int] = []
    while path:
        index = path.pop()
        if index in numbers:
            continue
        numbers[index] = len(numbers)
        waiting.append(index)
        path.extend(child for child in reversed(nodes[index].children) if isinstance(child, int))
    for index in waiting:
        parts = [b"^%d" % numbers[child] if isinstance(child, int) else child for child in nodes[index].children]
        body.update(framed(nodes[index].label, parts))
    return numbers, body.digest()
