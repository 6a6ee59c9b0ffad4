"""The checks of options: each takes the option's name and a value other than None, and gives the form that the engine
reads."""

from __future__ import annotations

import inspect
import math
import string
from collections.abc import Iterable, Mapping
from typing import Any, cast

from kapstan.errors import ConfigurationError

MOST_RETRIES = 998
"""Most retries: a background run's record counts its executions in three digits."""


def text(option: str, value: Any) -> str:
    """Raises:
    ConfigurationError: not a string.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{option}={value!r}: give a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{option}={value!r}: half a character (a lone surrogate) is no text") from None
    return value


def flag(option: str, value: Any) -> bool:
    """Raises:
    ConfigurationError: neither True nor False.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{option}={value!r}: give True or False")
    return value


def whole(option: str, value: Any) -> int:
    """Raises:
    ConfigurationError: not a whole number, negative, or more than a run's record can count.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RETRIES:
        raise ConfigurationError(f"{option}={value!r}: give a whole number from 0 to {MOST_RETRIES}")
    return value


def number(option: str, value: Any) -> float:
    """Raises:
    ConfigurationError: not a number, negative, infinite or nan.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{option}={value!r}: give a number from 0 on")
    return float(value)


def time_limit(option: str, value: Any) -> float | None:
    """Seconds; None for 0, which means no limit.

    Raises:
        ConfigurationError: as ``number``.
    """
    return number(option, value) or None


def delays(option: str, value: Any) -> Any:
    """A number, a tuple of numbers, or the function that makes them once the number of retries is known.

    Raises:
        ConfigurationError: none of these.
    """
    if callable(value):
        return value
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(number(option, item) for item in cast("Iterable[Any]", value))
    return number(option, value)


def condition(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: not callable.
    """
    if not callable(value):
        raise ConfigurationError(f"{option}={value!r}: give a function of (task, task_run, state)")
    return value


def run_name(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: neither a template nor a function, or a template that cannot be read.
    """
    if not isinstance(value, str):
        if not callable(value) or inspect.iscoroutinefunction(value):
            raise ConfigurationError(f"{option}={value!r}: give a template, such as 'charge-{{user}}', or a function")
        return value
    try:
        list(string.Formatter().parse(value))
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is not a template: {error}") from None
    return value


def task_runner(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: no task runner.
    """
    if isinstance(value, type) or not hasattr(value, "max_workers"):
        raise ConfigurationError(f"{option}={value!r}: give a ThreadPoolTaskRunner(max_workers=...)")
    return value
