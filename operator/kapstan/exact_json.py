"""JSON for values that it carries exactly, and the check that says which these are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, cast

# The hot path of every background run: a scanner and an encoder made once. Both are the standard library's own parts,
# which its stubs leave out.
_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_scan = cast("Any", json.JSONDecoder()).scan_once
_make_encoder = cast("Any", json.encoder).c_make_encoder
_encoder = _make_encoder and _make_encoder(
    None, _plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, True
)

_type = cast("Any", type)


def text_of(value: Any) -> str:
    """Compact JSON of a value that ``exact_json`` has passed (so it has no cycle)."""
    return "".join(_encoder(value, 0)) if _encoder else _plain.encode(value)


def value_of(text: str) -> Any:
    """The value of what ``text_of`` gave."""
    return _scan(text, 0)[0]


def exact_json(value: Any) -> bool:
    """Whether ``json.loads(json.dumps(value))`` gives an equal value of the same types all the way down, in which the
    same lists and dicts are one object."""
    return _exact((value,), 0, set())


def _exact(items: Iterable[Any], depth: int, seen: set[int]) -> bool:
    """Whether that is so of all ``items``, which stand in ``depth`` lists and dicts.

    Args:
        seen: the lists and dicts met so far; one met twice is shared or holds itself, which JSON cannot say.
    """
    # Every background run passes here, and a call or a generator costs more than what it would look at.
    for item in items:
        kind = _type(item)
        if kind is str:
            if not item.isascii() and not _whole(item):
                return False
        elif kind is list or kind is dict:
            if depth > 100 or id(item) in seen:
                return False
            seen.add(id(item))
            if kind is dict:
                for key in item:
                    if type(key) is not str or not (key.isascii() or _whole(key)):
                        return False
            if item and not _exact(item if kind is list else item.values(), depth + 1, seen):
                return False
        elif kind is int:
            if item.bit_length() > 1024:
                return False
        elif kind is float:
            if not math.isfinite(item):
                return False
        elif kind is not bool and item is not None:
            return False
    return True


def _whole(text: str) -> bool:
    """Whether it holds no half of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def misfit(value: Any, at: str = "value") -> str:
    """What of a value that ``exact_json`` refuses does not fit, for people: ``value['day'] is a datetime.date``."""
    if type(value) is list:
        for index, item in enumerate(cast("list[Any]", value)):
            if not exact_json(item):
                return misfit(item, f"{at}[{index}]")
    elif type(value) is dict:
        for key, item in cast("dict[Any, Any]", value).items():
            if type(key) is not str or not exact_json(key):
                return f"{at} has the key {key!r:.50}, which is no plain text"
            if not exact_json(item):
                return misfit(item, f"{at}[{key!r:.50}]")
    elif type(value) is float:
        return f"{at} is {value}"
    elif type(value) is int:
        return f"{at} is an integer beyond 1024 bits"
    elif type(value) is str:
        return f"{at} holds half a character (a lone surrogate)"
    else:
        return f"{at} is a {type(value).__module__}.{type(value).__qualname__}"
    return f"{at} holds one list or dict in two places, or more than 100 levels"
