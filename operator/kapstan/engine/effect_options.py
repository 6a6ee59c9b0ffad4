"""The options of ``@task`` that say what may happen if its code runs twice: their types and checks, for
``engine.options``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kapstan.errors import ConfigurationError
from kapstan.states import EffectClass


def effect_class(option: str, value: Any) -> EffectClass:
    """The class that a word, such as ``"at_most_once"``, or an ``EffectClass`` names.

    Raises:
        ConfigurationError: none.
    """
    if isinstance(value, EffectClass):
        return value
    named = {found.name.lower(): found for found in EffectClass}
    if not isinstance(value, str) or value.lower() not in named:
        raise ConfigurationError(f"{option}={value!r}: give one of {', '.join(named)}")
    return named[value.lower()]


def probe(option: str, value: Any) -> Any:
    """Raises:
    ConfigurationError: no plain function of the idempotency key.
    """
    wanted = f"{option}={value!r}: give a function of the idempotency key that says whether the effect happened"
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise ConfigurationError(wanted)
    try:
        inspect.signature(value).bind("key")
    except TypeError as error:
        raise ConfigurationError(f"{wanted}; this one has {error}") from None
    except ValueError:  # a builtin that does not tell
        pass
    return value


def settled(values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options together, as the engine reads them: what asks for exactly once without a class is at most once, and
    no setting has an effect repeated.

    Args:
        given: those that the task itself says.

    Raises:
        ConfigurationError: options that contradict each other.
    """
    manager = getattr(values.get("cache_policy"), "lock_manager", None)
    if "effect" not in values and (values.get("exactly_once") or manager is not None):
        values["effect"] = EffectClass.AT_MOST_ONCE
    effect = values.get("effect", EffectClass.PURE)
    if effect is EffectClass.PURE and values.get("exactly_once"):
        raise ConfigurationError(
            "exactly_once=True, effect='pure': code of class pure may run more than once; give idempotent, "
            "at_most_once or transactional, or leave effect out"
        )
    if effect is not EffectClass.PURE and values.get("persist_result") is False:
        raise ConfigurationError(
            f"persist_result=False, effect={effect.name.lower()!r}: who repeats the call must find the result; leave "
            "persist_result out"
        )
    if effect is not EffectClass.PURE and given.get("refresh_cache") is None:
        values["refresh_cache"] = False
    return values
