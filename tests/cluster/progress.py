"""Says what is being done and how long it took. Bringing a cluster up takes minutes when nothing is cached."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """One line per step on *stream*: the title when it begins, the seconds when it ends. Steps do not nest."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Generator[None]:
        began = time.monotonic()
        print(f"  {title} ...", end="", flush=True, file=self._stream)
        outcome = "failed after"
        try:
            yield
            outcome = ""
        finally:
            print(f" {outcome} {time.monotonic() - began:.1f} s".replace("  ", " "), flush=True, file=self._stream)

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True, file=self._stream)

    def total(self, text: str) -> None:
        print(f"{text} in {time.monotonic() - self._began:.1f} s", flush=True, file=self._stream)
