"""Reading what comes in pieces as a file, of which no more is in memory than was asked for."""

from __future__ import annotations

from collections.abc import Callable


class Pieces:
    """A binary file for readers such as pickle's.

    Args:
        more: the next piece; b"" at the end, and from then on.
    """

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self._piece = memoryview(b"")

    def _next(self) -> bool:
        if not self._piece:
            self._piece = memoryview(self._more())
        return bool(self._piece)

    def read(self, size: int = -1, /) -> bytes:
        pieces: list[memoryview] = []
        wanted = size
        while wanted and self._next():
            piece = self._piece if size < 0 else self._piece[:wanted]
            pieces.append(piece)
            self._piece = self._piece[len(piece) :]
            wanted -= len(piece) if size >= 0 else 0
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, as far as there is something; how many bytes."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._next():
            piece = self._piece[: len(view) - filled]
            view[filled : filled + len(piece)] = piece
            self._piece = self._piece[len(piece) :]
            filled += len(piece)
        return filled

    def readline(self) -> bytes:
        line = bytearray()
        while self._next():
            end = bytes(self._piece[:4096]).find(b"\n")
            taken = self._piece[: end + 1] if end >= 0 else self._piece[:4096]
            line += taken
            self._piece = self._piece[len(taken) :]
            if end >= 0:
                break
        return bytes(line)
