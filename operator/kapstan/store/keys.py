"""Which keys a store takes: one rule for every adapter, so that what works on a laptop works in a bucket."""

from __future__ import annotations

import re

_KEY = re.compile(r"[\x21-\x7e]{1,800}")


def check_key(key: str) -> str:
    """``key``, if every adapter can hold it.

    Raises:
        ValueError: not 1 to 800 printable ASCII characters without blanks, or a part between slashes is empty, ``.`` or
            ``..``.
    """
    if not _KEY.fullmatch(key) or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(
            f"{key!r} is no key of the store: give 1 to 800 printable ASCII characters without blanks, in parts "
            "between slashes that are neither empty nor '.' nor '..'"
        )
    return key
