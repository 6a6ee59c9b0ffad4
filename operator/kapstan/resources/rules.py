"""Holds a resource to our rules: what CEL does in the API server, `validate` does here with the same messages.

Called before a manifest is stored in local mode, before the command line or `deploy()` sends one, and by the
operator for the rules that CEL cannot express. Knows the models only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel

from kapstan.errors import InvalidResource
from kapstan.resources.base import Model, Problem, Resource
from kapstan.resources.rule import Rule
from kapstan.resources.wording import path_of


def validate(new: Resource, old: Resource | None = None) -> None:
    """Refuse what the API server would refuse, and what only the operator can tell.

    Args:
        new: the resource as it is to be stored.
        old: the stored one, on an update.

    Raises:
        InvalidResource: with every problem that was found.
    """
    problems = list(violations(new, old))
    if problems:
        raise InvalidResource(problems, kind=new.kind, name=new.metadata.name)


def violations(new: Resource, old: Resource | None = None, *, beyond_cel: bool = False) -> Iterator[Problem]:
    """Each broken rule as (field path, message); with ``beyond_cel`` only those that the API server does not check."""
    return _walk([], new, old, beyond_cel)


def _walk(location: list[Any], new: BaseModel, old: BaseModel | None, beyond_cel: bool) -> Iterator[Problem]:
    if isinstance(new, Model):
        for rule in new.rules:
            if (rule.cel is None or not beyond_cel) and not _keeps(rule, new, old):
                yield path_of([*location, *rule.field.split(".")]), rule.text(new)
    for name, field in type(new).model_fields.items():
        value, before = getattr(new, name), getattr(old, name, None)
        below = [*location, field.alias or name]
        if isinstance(value, BaseModel):
            yield from _walk(below, value, before if isinstance(before, BaseModel) else None, beyond_cel)
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            if not beyond_cel:
                yield from _duplicates(below, items, field.json_schema_extra)
            for index, item in enumerate(items):
                if isinstance(item, BaseModel):
                    yield from _walk([*below, index], item, None, beyond_cel)


def _keeps(rule: Rule, new: Model, old: BaseModel | None) -> bool:
    if rule.is_transition and old is None:
        return True
    return rule.holds(new, old)


def _duplicates(location: list[Any], items: list[Any], extra: object) -> Iterator[Problem]:
    """Items of a list that is a set or a map in the schema, and that are there twice."""
    schema = cast("dict[str, Any]", extra) if isinstance(extra, dict) else {}
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys is None and schema.get("x-kubernetes-list-type") != "set":
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        identity = {key: getattr(item, key) for key in keys} if keys else item
        shown = json.dumps(identity, separators=(",", ":"))
        if shown in seen:
            yield path_of([*location, index]), f"Duplicate value: {shown}"
        seen.add(shown)
