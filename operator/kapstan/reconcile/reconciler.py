"""What the loop knows of a kind: how it is decided, whom a change of it wakes, what the operator needs for it.

Each folder of `kinds` has one; `table` lists them. Loop, informers, roles and local mode read that table and nothing
else, so that a new kind is a folder, a model and a line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, NamedTuple

from kapstan.ports import Key, Kind, Manifest
from kapstan.reconcile.plan import Acting, Plan, Refused
from kapstan.reconcile.world import World

Child = Literal["Job", "Pod", "AppDeployment"]
"""What a launcher makes on Kubernetes for an object of ours."""


class Wake(NamedTuple):
    """Another object to look at, ``after`` so many seconds: many wakes within them are one look."""

    key: Key
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Right:
    """One line of a role: what may be done with which resources of a group, and what it is needed for."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str


class Reconciler(ABC):
    """One kind. Holds no state: what must be remembered between two looks is in ``world.memory``."""

    kind: ClassVar[Kind]

    left_out: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Selectable fields, and the values with which an object is not watched."""
    children: ClassVar[frozenset[Child]] = frozenset()
    """What is watched on Kubernetes for it, beside the object itself."""
    child_label: ClassVar[str] = ""
    """Label of the children whose value is the object's name."""
    rights: ClassVar[tuple[Right, ...]] = ()
    """What the operator may do for it, beside reading every kind of ours and writing its status."""

    def concerns(self, world: World, key: Key, manifest: Manifest) -> bool:  # noqa: ARG002  (the form of every kind)
        """Whether this loop decides about the object, or another process does."""
        return world.only is None

    @abstractmethod
    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:
        """Look at the object and what its next step depends on, and decide it.

        Raises:
            InvalidResource: the object breaks its model's rules, so nothing can be decided.
        """

    def noticed(self, world: World, key: Key, before: Manifest | None, after: Manifest | None) -> Iterable[Wake]:  # noqa: ARG002
        """The object was created (no ``before``), changed, or is gone (no ``after``): bring what is remembered of it up
        to date; who else must be looked at."""
        return ()

    async def refused(self, world: World, key: Key, error: Refused, now: datetime) -> Plan | None:  # noqa: ARG002
        """What to tell of an action that was refused; None: nothing."""
        return None

    async def leaving(self, acting: Acting, key: Key, manifest: Manifest) -> None:  # noqa: B027
        """The object is marked for deletion, and a finalizer still holds it: nothing is decided about it any more."""

    async def forget(self, acting: Acting, key: Key) -> None:  # noqa: B027  (most kinds have nothing to end)
        """The object does not exist any more: end what was made for it, and forget it."""
