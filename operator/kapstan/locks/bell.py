"""A pipe that ends a wait in ``select`` from another thread."""

from __future__ import annotations

import contextlib
import os


class Bell:
    """``reader`` can be read once it was rung."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writer, b"!")

    def close(self) -> None:
        for end in (self.reader, self._writer):
            with contextlib.suppress(OSError):
                os.close(end)
