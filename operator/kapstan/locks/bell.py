"""A pipe that ends a wait in ``select`` from another thread."""

from __future__ import annotations

import contextlib
import os


class Bell:
    """``reader`` can be read once it was rung. Code of the user's may close every file, and open others under their
    numbers: those are left alone."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        self._identity = os.fstat(self.reader)[1:3]  # both ends have the same

    def ring(self) -> None:
        if self._is_open(self._writer):
            with contextlib.suppress(OSError):
                os.write(self._writer, b"!")

    def clear(self) -> bool:
        """Forget that it was rung; whether it is still there."""
        if not self._is_open(self.reader):
            return False
        with contextlib.suppress(OSError):
            return bool(os.read(self.reader, 4096))
        return False

    def close(self) -> None:
        for end in (self.reader, self._writer):
            if self._is_open(end):
                with contextlib.suppress(OSError):
                    os.close(end)

    def _is_open(self, end: int) -> bool:
        with contextlib.suppress(OSError):
            return os.fstat(end)[1:3] == self._identity
        return False
