"""Checks the options of ``@task`` and ``@flow``: a mistake is named where it is made, with what fits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kapstan import settings, specs
from kapstan.errors import ConfigurationError

RetryDelays = float | Sequence[float] | Callable[[int], Sequence[float]]
RunName = str | Callable[..., str]


def check_options(where: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises:
    TypeError: an option that is not among ``known``, naming the nearest one.
    """
    known = list(known)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise TypeError(f"{where} has no option {option!r}; {hint}")


def whole(option: str, value: Any) -> int:
    """``value``, if it is a count.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{option}={value!r}: give a whole number from 0 on")
    return value


def number(option: str, value: Any) -> float | None:
    """``value`` as a float, None for None.

    Raises:
        ConfigurationError: it is no number, or negative.
    """
    if value is not None and (not isinstance(value, (int, float)) or value < 0):
        raise ConfigurationError(f"{option}={value!r}: give a number from 0 on")
    return None if value is None else float(value)


def retry_delays(given: RetryDelays | None, retries: int) -> specs.RetryDelay:
    """``retry_delay_seconds`` in the form of a spec.

    Raises:
        ConfigurationError: it is none of its three forms, or a delay is negative.
    """
    if given is None:
        return settings.current().default_retry_delay_seconds
    listed = given(retries) if callable(given) else given
    if isinstance(listed, (int, float)):
        return number("retry_delay_seconds", listed) or 0.0
    return tuple(number("retry_delay_seconds", item) or 0.0 for item in listed)


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """For ``retry_delay_seconds``: ``backoff_factor * 2**i`` seconds before retry ``i`` (from 0).

    Raises:
        ConfigurationError: a negative factor.
    """
    if backoff_factor < 0:
        raise ConfigurationError(f"exponential_backoff({backoff_factor}): the factor must not be negative")
    return lambda retries: [backoff_factor * max(0, 2**i) for i in range(retries)]
