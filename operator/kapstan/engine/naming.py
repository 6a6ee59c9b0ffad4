"""Names of runs, from a template or a function of the user's."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from kapstan.errors import ConfigurationError
from kapstan.ports.queue import LONGEST_GROUP
from kapstan.specs import TaskSpec

logger = logging.getLogger("kapstan.task_runs")


def group(given: str | Callable[..., Any] | None, parameters: Mapping[str, Any]) -> str:
    """The group that ``given`` makes of the parameters, as ``run_name``; "" for none. One that is too long, or that
    screens do not show, is known by its digest.

    Raises:
        ConfigurationError: as ``run_name``.
    """
    if given is None:
        return ""
    made: Any = run_name(given, parameters, "group") if isinstance(given, str) else _called(given, parameters)
    if made is None:
        return ""
    if not isinstance(made, str):
        raise ConfigurationError(f"the function for groups gave {made!r}; it must give a text, or None for no group")
    if made.isprintable() and len(made.encode()) <= LONGEST_GROUP:
        return made
    return f"sha256:{hashlib.sha256(made.encode(errors='surrogatepass')).hexdigest()}"


def run_name(given: str | Callable[..., str] | None, parameters: Mapping[str, Any], what: str = "run name") -> str:
    """The name that ``given`` makes of the parameters; "" if there is no template.

    A function gets the parameters as ``parameters``, or as its one argument, if it takes them.

    Raises:
        ConfigurationError: the template names something that is no parameter, or the function gives no text.
    """
    if given is None:
        return ""
    if isinstance(given, str):
        try:
            return given.format(**parameters)
        except (LookupError, AttributeError, ValueError, TypeError) as error:
            known = ", ".join(parameters) or "none"
            reason = f"there is no parameter {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(f"{what} {given!r}: {reason}; the parameters are {known}") from None
    name: Any = _called(given, parameters)
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the function for run names gave {name!r}; it must give a text")
    return name


def name_or_none(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The name of a task run as ``task_run_name`` makes it; "" where that does not work: the run goes on."""
    try:
        return run_name(spec.task_run_name, spec.bind(args, kwargs))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a user's function)
        logger.warning("The task_run_name of %s gives no name: %s: %s", spec.name, type(error).__name__, error)
        return ""


def _called(namer: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    try:
        takes = inspect.signature(namer).parameters
    except ValueError:  # a builtin that does not tell
        return namer()
    if "parameters" in takes:
        return namer(parameters=dict(parameters))
    first = next(iter(takes.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if first is not None and first.kind in positional and first.default is first.empty:
        return namer(dict(parameters))
    return namer()
