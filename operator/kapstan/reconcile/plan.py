"""A reconciler's answer: actions in the order in which they must happen, and when to look again.

Actions are data. The loop carries them out one by one and stops at the first that fails: so a status that stands before
a launch is written, and answered, before the launch is made. Every action may be repeated: names are given, statuses
are fenced by the version that was decided on, and "it is there already" is an answer, not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from kapstan.errors import KapstanError
from kapstan.ports import Key, Manifest
from kapstan.reconcile.world import World


class Refused(KapstanError):
    """An action cannot be done as it is; the reconciler of its kind says so in the object's status.

    ``again``: whether it is tried again, later and later.
    """

    again = True


@dataclass(slots=True)
class Acting:
    """What an action is carried out with.

    ``version``: of the object that was decided on; a status is refused if another one is stored.
    """

    world: World
    enqueue: Callable[[Key], None]
    wrote: Callable[[Manifest], object]
    """Called with the answer to each write of one of our resources."""
    version: str = ""


class Action(Protocol):
    """One thing to do; a frozen dataclass."""

    async def perform(self, acting: Acting) -> None:
        """Do it.

        Raises:
            ResourceConflict: the object has changed since it was decided on.
            Refused: it cannot be done as it is.
            ClusterUnavailable, BackendError: as they come.
        """
        ...


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Write the status of the object that was observed; refused if it has changed since."""

    key: Key
    uid: str
    status: Manifest

    async def perform(self, acting: Acting) -> None:
        stored = await acting.world.cluster.set_status(
            self.key, self.status, uid=self.uid, resource_version=acting.version or None
        )
        acting.wrote(stored)
        acting.version = str(stored["metadata"].get("resourceVersion") or "")


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Record an Event, for people."""

    key: Key
    uid: str
    severity: Literal["Normal", "Warning"]
    reason: str
    message: str

    async def perform(self, acting: Acting) -> None:
        await acting.world.cluster.emit(
            self.key, uid=self.uid, severity=self.severity, reason=self.reason, message=self.message
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in order; ``requeue_at``: when to look again although nothing was heard."""

    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None

    async def perform(self, acting: Acting) -> None:
        """Act; the first action that fails ends it. See `Action.perform` for what may be raised."""
        for action in self.actions:
            await action.perform(acting)
