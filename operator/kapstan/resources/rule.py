"""One rule of a resource, for the API server and for this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of ours, once for the API server (CEL) and once for this process (Python), with one message.

    ``cel`` is evaluated on the object that the rule belongs to; it compares with the stored object where it says
    ``oldSelf``, and is then checked on updates only. None: CEL cannot express it, so the operator checks it and
    reports a condition. ``message`` may hold ``%s`` and ``%d``, filled from the fields named by ``arguments``.
    ``field`` is the field to blame, below the object; ``reason`` is one of the API server's four.
    """

    field: str
    message: str
    holds: Callable[[Any, Any], bool]
    cel: str | None = None
    arguments: tuple[str, ...] = ()
    reason: Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"] = "FieldValueInvalid"

    @property
    def is_transition(self) -> bool:
        return "oldSelf" in (self.cel or "")

    def text(self, subject: BaseModel) -> str:
        """The message for this object; fields are read by their names in manifests, dotted below the object."""
        return self.message % tuple(_at(subject, argument) for argument in self.arguments)

    def as_validation(self) -> dict[str, str]:
        """The entry of ``x-kubernetes-validations``."""
        assert self.cel is not None
        validation = {"rule": self.cel, "fieldPath": f".{self.field}", "reason": self.reason}
        if self.arguments:
            values = ", ".join(f"self.{argument}" for argument in self.arguments)
            quoted = self.message.replace("\\", "\\\\").replace("'", "\\'")
            validation["messageExpression"] = f"'{quoted}'.format([{values}])"
        else:
            validation["message"] = self.message
        return validation


def _at(subject: BaseModel, dotted: str) -> Any:
    value: Any = subject
    for part in dotted.split("."):
        value = getattr(value, _attribute(value, part))
    return value


def _attribute(subject: BaseModel, alias: str) -> str:
    return next(name for name, field in type(subject).model_fields.items() if field.alias == alias)


def json_size(value: Any) -> int:
    """Bytes of ``value`` as compact JSON in UTF-8."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str).encode(errors="replace"))


def at_most(field: str, limit: int, *, instead: str) -> Rule:
    """A field that the schema leaves open and that is copied into what is made from the resource.

    CEL sees the number of its entries and not their size, so this process alone holds it to ``limit`` bytes.
    """

    def fits(new: BaseModel, old: BaseModel) -> bool:  # noqa: ARG001 (the form of every rule)
        return json_size(_at(new, field)) <= limit

    return Rule(field, f"{field} takes more than {limit} bytes as JSON: {instead}", fits)


def immutable(field: str, *, instead: str, untyped: bool = False) -> Rule:
    """A field that keeps its first value, or its first absence.

    The rule stands on the parent: on an optional field itself it would be bypassed by removing and adding it again.
    A map of any values has no type in CEL (``untyped``) and is reached around the type checker.
    """

    def unchanged(new: BaseModel, old: BaseModel) -> bool:
        return _at(new, field) == _at(old, field)

    new, old = (f"dyn(self).{field}", f"dyn(oldSelf).{field}") if untyped else (f"self.{field}", f"oldSelf.{field}")
    cel = f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"
    return Rule(field, f"{field} is immutable: {instead}", unchanged, cel, reason="FieldValueForbidden")
