"""What a sweep did, or would do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from kapstan.runs.retention import Kept


class Item(NamedTuple):
    """Something that went. ``kind``: ``journal``, ``definition``, ``value``, ``parameters``, ``grave``, ``key`` (its
    result), ``submissions`` or ``ended`` (of background runs); ``name``: the id of a run, for values and parameters the
    key, for a key the task and it."""

    kind: str
    name: str
    objects: int
    size: int


@dataclass(slots=True)
class Report:
    """What a sweep did, or would do.

    Attributes:
        items, objects, sizes: by kind.
        kept: how much stayed that is old enough, and why.
        examples: some of it, by why.
        refused: keys that the store refused to delete, and why; the first hundred.
        refusals: how many there were.
    """

    items: Counter[str] = field(default_factory=Counter[str])
    objects: Counter[str] = field(default_factory=Counter[str])
    sizes: Counter[str] = field(default_factory=Counter[str])
    kept: Counter[Kept] = field(default_factory=Counter[Kept])
    examples: dict[Kept, list[str]] = field(default_factory=dict[Kept, list[str]])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    refusals: int = 0
    stopped: bool = False

    def keep(self, why: Kept, name: str) -> None:
        self.kept[why] += 1
        if len(examples := self.examples.setdefault(why, [])) < 5:
            examples.append(name)
