"""Says what is wrong with a manifest's shape in the API server's own words.

`Resource.from_dict` calls this with pydantic's errors, so that a person reads the same sentence from `kapstan apply` in
local mode as from `kubectl apply` on a cluster. The table of bad samples is run against a real API server and holds
the two together. Rules of our own carry their text with them and need no translation here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_WANTED = {
    "string_type": "string",
    "int_type": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}
_UNFORMATTED = {"integer": "int64", "number": "float64"}
"""What the API server calls a value that should have been a formatted string."""
_BOUND = {
    "greater_than_equal": ("ge", "greater than or equal to"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "less than or equal to"),
    "less_than": ("lt", "less than"),
}


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """(field path, message) for each error that pydantic found in a manifest of this model."""
    return [_problem(detail, model) for detail in error.errors()]


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    location = [part for part in detail["loc"] if part != "[key]"]
    path = path_of(location)
    return path, _message(detail, path, model, location)


def path_of(location: list[Any]) -> str:
    """``spec.schedules[0].cron`` for ``["spec", "schedules", 0, "cron"]``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _message(detail: ErrorDetails, path: str, model: type[BaseModel], location: list[Any]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return _required_text(model, location) or "Required value"
    if kind == "extra_forbidden":
        return f'unknown field "{path}"'
    if kind == "literal_error":
        return f"Unsupported value: {_shown(value)}: supported values: {_choices(model, location)}"
    if kind in _BOUND:
        name, words = _BOUND[kind]
        return f"Invalid value: {_shown(value)}: {path} in body should be {words} {_number(context[name])}"
    if kind == "string_pattern_mismatch":
        return f"Invalid value: {_shown(value)}: {path} in body should match '{context['pattern']}'"
    if kind == "string_too_short":
        return f"Invalid value: {_shown(value)}: {path} in body should be at least {context['min_length']} chars long"
    if kind == "string_too_long":
        return f"Too long: may not be more than {context['max_length']} bytes"
    if kind == "too_short":
        least = context["min_length"]
        return f"Invalid value: {context['actual_length']}: {path} in body should have at least {least} items"
    if kind == "too_long":
        return f"Too many: {context['actual_length']}: must have at most {context['max_length']} items"
    if kind == "date_time":
        return f"Invalid value: {_shown(value)}: {path} in body must be of type date-time: {_shown(value)}"
    if kind == "datetime_type":
        got = _UNFORMATTED.get(_type_name(value), "")
        return f'Invalid value: "{got}": {path} in body must be of type date-time: "{got}"'
    wanted = _WANTED.get(kind)
    if wanted is None:
        return f"Invalid value: {_shown(value)}: {detail['msg']}"
    got = _type_name(value)
    return f'Invalid value: "{got}": {path} in body must be of type {wanted}: "{got}"'


def _fields(model: type[BaseModel], location: list[Any]) -> Iterator[tuple[type[BaseModel], str]]:
    """(model, attribute) for each field name on the way down a location."""
    here: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        if here is None:
            return
        name = next((name for name, field in here.model_fields.items() if part in (name, field.alias)), None)
        if name is None:
            return
        yield here, name
        here = next(_models_in(here.model_fields[name].annotation), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _required_text(model: type[BaseModel], location: list[Any]) -> str | None:
    """The text of the rule that answers for this field's absence, if one does."""
    owner, _ = list(_fields(model, location))[-1]
    rules = getattr(owner, "rules", ())
    return next(
        (rule.message for rule in rules if rule.reason == "FieldValueRequired" and rule.field == location[-1]), None
    )


def _choices(model: type[BaseModel], location: list[Any]) -> str:
    owner, name = list(_fields(model, location))[-1]
    return ", ".join(f'"{choice}"' for choice in _literals(owner.model_fields[name].annotation))


def _literals(annotation: Any) -> Iterator[str]:
    for argument in get_args(annotation):
        if isinstance(argument, str):
            yield argument
        else:
            yield from _literals(argument)


_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (str, "string"),
    (int, "integer"),
    (float, "number"),
    (dict, "object"),
    (list, "array"),
    (type(None), "null"),
)


def _type_name(value: object) -> str:
    return next((name for type_, name in _NAMES if isinstance(value, type_)), type(value).__name__)


def _shown(value: object) -> str:
    return json.dumps(value, default=str)


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"
