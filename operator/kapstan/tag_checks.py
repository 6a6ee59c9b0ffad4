"""What may be a tag."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from kapstan.errors import ConfigurationError

_MOST_TAGS, _LONGEST_TAG = 50, 200


def checked_tags(option: str, value: Any) -> frozenset[str]:
    """The tags in ``value``.

    Raises:
        ConfigurationError: no list of texts; a tag that is empty, longer than 200 characters, not printable, or with a
            space at an end; more than 50.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        example = f", such as [{value!r}]" if isinstance(value, str) else ""
        raise ConfigurationError(f"{option}={value!r}: give a list of texts{example}")
    given = list(cast("Iterable[Any]", value))
    for tag in given:
        if not isinstance(tag, str):
            raise ConfigurationError(f"{option}: the tag {tag!r} is no text")
        if not 1 <= len(tag) <= _LONGEST_TAG:
            raise ConfigurationError(
                f"{option}: the tag {tag[:50]!r} has {len(tag)} characters; give 1 to {_LONGEST_TAG}"
            )
        if not tag.isprintable() or tag != tag.strip():
            raise ConfigurationError(
                f"{option}: the tag {tag!r} has spaces at an end, or characters that no screen shows"
            )
    found = frozenset(cast("list[str]", given))
    if len(found) > _MOST_TAGS:
        raise ConfigurationError(f"{option}: {len(found)} tags; give at most {_MOST_TAGS}")
    return found
