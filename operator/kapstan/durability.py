"""What of a submitted run outlives what: where it stands before its submit is answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from kapstan.errors import ConfigurationError


class Durability(StrEnum):
    """``REDIS``: the queue's server has it, and keeps it as its own configuration says. ``AOF``: that server has
    synced it to its disk. ``STORE``: the object store has it, from which it can be submitted again."""

    REDIS = "redis"
    AOF = "aof"
    STORE = "store"


def durability(option: str, value: Any) -> Durability:
    """Raises:
    ConfigurationError: no level.
    """
    try:
        return Durability(value)
    except ValueError:
        raise ConfigurationError(f"{option}={value!r}: give one of {', '.join(Durability)}") from None
