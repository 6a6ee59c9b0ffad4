"""What the options that take hooks are given."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from kapstan.errors import ConfigurationError

Hooks = Callable[[Any], Any] | Sequence[Callable[[Any], Any]]
"""One function of a transaction, or several."""


def hooks(option: str, value: Any) -> tuple[Any, ...]:
    """Raises:
    ConfigurationError: no function, and no list of them.
    """
    given: list[Any] = list(cast("Iterable[Any]", value)) if isinstance(value, (list, tuple)) else [value]
    for hook in given:
        if not callable(hook):
            raise ConfigurationError(f"{option}={value!r}: give functions of one argument, the transaction")
    return tuple(given)
