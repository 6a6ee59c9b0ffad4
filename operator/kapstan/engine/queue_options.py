"""The options that say where a background run waits and when it may begin: which queue, before which others."""

from __future__ import annotations

import re
from typing import Any

from kapstan.errors import ConfigurationError
from kapstan.ports.queue import LONGEST_GROUP, MOST_PRIORITY

_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,63}")


def priority(option: str, value: Any) -> int:
    """Raises:
    ConfigurationError: not a whole number, or too great or small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_PRIORITY:
        raise ConfigurationError(f"{option}={value!r}: give a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    return value


def queue(option: str, value: Any) -> str:
    """Raises:
    ConfigurationError: no name of a queue.
    """
    if not isinstance(value, str) or not _QUEUE.fullmatch(value):
        raise ConfigurationError(f"{option}={value!r}: give 1 to 63 letters, digits, '.', '_' or '-'")
    return value


def group(option: str, value: Any) -> str:
    """Raises:
    ConfigurationError: no text, one that is too long, or that screens do not show.
    """
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > LONGEST_GROUP:
        raise ConfigurationError(f"{option}={value!r}: give a text of at most {LONGEST_GROUP} bytes that screens show")
    return value
