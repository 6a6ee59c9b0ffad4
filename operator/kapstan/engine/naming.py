"""Names of runs, from a template or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kapstan.errors import ConfigurationError


def run_name(given: str | Callable[..., str] | None, parameters: Mapping[str, Any]) -> str:
    """The name that ``given`` makes of the parameters; "" if there is no template.

    A function may take one argument, the parameters, or none.

    Raises:
        ConfigurationError: the template names something that is no parameter, or the function gives no text.
    """
    if given is None:
        return ""
    if isinstance(given, str):
        try:
            return given.format(**parameters)
        except (LookupError, AttributeError, ValueError) as error:
            known = ", ".join(parameters) or "none"
            raise ConfigurationError(f"run name {given!r}: {error}; the parameters are {known}") from None
    name = given(parameters) if given.__code__.co_argcount else given()
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]  # a user's function
        raise ConfigurationError(f"the function for run names gave {name!r}; it must give a text")
    return name
