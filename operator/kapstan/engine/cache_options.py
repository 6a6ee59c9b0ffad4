"""The options of ``@task`` that say which calls share a result: their types and checks, for ``engine.options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from kapstan.errors import ConfigurationError


class CachePolicy(Protocol):
    """Says which calls of a task share a result; see ``kapstan.cache_policies``.

    Attributes:
        key_storage: where the records of its keys are kept; None: in the store of the namespace.
        isolation_level: READ_COMMITTED or SERIALIZABLE; None: as the transaction around the call.
        lock_manager: orders the callers of one key; None for none.
    """

    key_storage: Any
    isolation_level: str | None
    lock_manager: Any

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> str | None: ...


CacheKey = Callable[[Any, dict[str, Any]], str | None]
"""(context, parameters) -> key; None: this call is not cached."""


def cache_policy(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: no cache policy, or one that asks for SERIALIZABLE and names no lock manager.
    """
    if isinstance(value, type) or not callable(getattr(value, "compute_key", None)):
        raise ConfigurationError(f"{option}={value!r}: give a policy of kapstan.cache_policies, such as INPUTS")
    if getattr(value, "isolation_level", None) == "SERIALIZABLE" and getattr(value, "lock_manager", None) is None:
        raise ConfigurationError(
            f"{option}={value!r}: SERIALIZABLE needs something that orders the callers; give lock_manager= to "
            "configure(), such as MemoryLockManager()"
        )
    return value


def cache_key_fn(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: no plain function of (context, parameters).
    """
    wanted = f"{option}={value!r}: give a function of (context, parameters) that returns a text"
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise ConfigurationError(wanted)
    try:
        inspect.signature(value).bind(None, None)
    except TypeError as error:
        raise ConfigurationError(f"{wanted}; this one has {error}") from None
    except ValueError:  # a builtin that does not tell
        pass
    return value


def expiration(option: str, value: Any) -> timedelta:
    """Raises:
    ConfigurationError: neither a timedelta nor a number of seconds, or not above 0.
    """
    wanted = f"{option}={value!r}: give a timedelta or a number of seconds, above 0"
    if not isinstance(value, timedelta):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(wanted)
        try:
            value = timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise ConfigurationError(wanted) from None
    if value <= timedelta(0):
        raise ConfigurationError(wanted)
    return value
