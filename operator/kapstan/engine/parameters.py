"""Arguments of a flow made the types that its function's annotations name."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from kapstan.engine.annotations import fits
from kapstan.errors import ParameterTypeError

Coerce = Callable[[Mapping[str, Any]], dict[str, Any]]


def coercion(name: str, fn: Callable[..., Any], signature: inspect.Signature) -> Coerce | None:
    """Turns arguments into the types that ``signature`` names; pydantic is loaded only where that is not plain to see.

    Args:
        fn: where the names of the types are known.
    """
    if all(parameter.annotation is parameter.empty for parameter in signature.parameters.values()):
        return None
    hints: dict[str, Any] = {}

    def coerce(parameters: Mapping[str, Any]) -> dict[str, Any]:
        if not hints:
            hints.update(_hints(inspect.unwrap(fn), signature))
        coerced = dict(parameters)
        for parameter, value in parameters.items():
            hint = hints.get(parameter, Any)
            if fits(value, hint):
                continue
            coerced[parameter] = _convert(name, parameter, value, hint)
        return coerced

    return coerce


def _hints(fn: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """The type of each parameter; none where its name cannot be resolved (imported for type checkers, or local)."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hints: dict[str, Any] = {"return": Any}
    for name, parameter in signature.parameters.items():
        if parameter.kind in variadic or parameter.annotation is parameter.empty:
            continue
        holder = type("_One", (), {"__annotations__": {name: parameter.annotation}})
        try:
            hints.update(typing.get_type_hints(holder, getattr(fn, "__globals__", {}), include_extras=True))
        except NameError:
            continue
    return hints


def _convert(flow_name: str, parameter: str, value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # the type brings a configuration of its own
            adapter = TypeAdapter(hint)
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        wanted = getattr(hint, "__name__", None) or str(hint)
        raise ParameterTypeError(
            f"flow {flow_name}: parameter {parameter}{place}={first['input']!r} is not {wanted}: {first['msg']}"
        ) from None
