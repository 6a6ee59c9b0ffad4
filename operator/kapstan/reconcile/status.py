"""Writes status the same way for every kind: conditions in place, and no write that says nothing new."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kapstan.ports import Key, Manifest
from kapstan.reconcile.plan import SetStatus
from kapstan.resources import Condition, Resource, set_condition
from kapstan.resources.base import Status

MESSAGE_LIMIT = 4096
"""Characters of a message in a status. An exception's may be of any length, and an object that grows with it can no
longer be written."""

Truth = Literal["True", "False", "Unknown"]


def shortened(message: str) -> str:
    """``message`` as a status carries it, and as it comes back from there."""
    message = message.encode("utf-8", "replace").decode()
    if len(message) <= MESSAGE_LIMIT:
        return message
    return f"{message[:MESSAGE_LIMIT]}... ({len(message) - MESSAGE_LIMIT} more characters; the run's log has them)"


@dataclass(slots=True)
class Conditions:
    """Conditions under construction: starts with the stored ones, keeps the transition times of those that stay."""

    generation: int | None
    now: datetime
    items: list[Condition] = field(default_factory=list[Condition])

    @classmethod
    def of(cls, resource: Resource, now: datetime) -> Conditions:
        return cls(resource.metadata.generation, now, list(resource.status.conditions))

    def set(self, type_: str, status: bool | Truth, reason: str, message: str = "") -> None:
        truth: Truth = status if isinstance(status, str) else ("True" if status else "False")
        condition = Condition(
            type=type_, status=truth, reason=reason, message=shortened(message), observed_generation=self.generation
        )
        self.items = set_condition(self.items, condition, now=self.now)

    def drop(self, type_: str) -> None:
        self.items = [condition for condition in self.items if condition.type != type_]


def key_of(resource: Resource) -> Key:
    kind, namespace, name = resource.key
    return Key(kind, namespace, name)  # pyright: ignore[reportArgumentType]  (the model's kind is one of ours)


def dump(status: Status) -> Manifest:
    """The status as a manifest carries it, defaults included."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def changed_status(resource: Resource, status: Status) -> tuple[SetStatus, ...]:
    """The write of this status, or nothing where it is what the object shows."""
    manifest = dump(status)
    if manifest == dump(resource.status):
        return ()
    return (SetStatus(key_of(resource), resource.metadata.uid or "", manifest),)
