"""Commands as they go over the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import hiredis

_pack_command = cast("Callable[[tuple[object, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def packed(parts: tuple[str | bytes | int, ...]) -> bytes:
    """Numbers become texts here: Python looks for signals while it makes them, and in hiredis what their handler
    raises (Ctrl-C, a time limit) ends the process with a segmentation fault."""
    return _pack_command(tuple([str(each) if type(each) is int else each for each in parts]))
