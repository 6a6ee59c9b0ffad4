"""What happened, as the effects themselves tell: the lines and rows that bodies left outside of queue and store."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tests.chaos import served


class Line(NamedTuple):
    """One step of a body."""

    word: str
    order: str
    key: str
    token: int
    pid: int
    by: str


class Outside:
    """The file of effects, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")
        self._file.seek(0)
        self._rest = ""
        self.lines: list[Line] = []

    def read(self) -> list[Line]:
        """Every line so far."""
        *whole, self._rest = (self._rest + self._file.read()).split("\n")
        for line in whole:
            word, order, key, token, pid, by = line.split(" ")
            self.lines.append(Line(word, order, key, int(token), int(pid), by))
        return self.lines

    def effect_of(self, key: str, token: int) -> str:
        """Which execution did it under this key and token; "" where none did."""
        return next((line.by for line in self.read() if line[0] == "effect" and line[2:4] == (key, token)), "")

    def effects(self) -> dict[str, list[Line]]:
        """By order, the effects in the file."""
        found: defaultdict[str, list[Line]] = defaultdict(list)
        for line in self.read():
            if line.word == "effect":
                found[line.order].append(line)
        return found

    def cut_off(self) -> list[Line]:
        """Where bodies began that never came to their end."""
        left = {line.by for line in self.read() if line.word == "left"}
        return [line for line in self.lines if line.word == "began" and line.by not in left]

    def close(self) -> None:
        self._file.close()


def rows() -> dict[str, list[str]]:
    """By order, the effects in the databases."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for number in range(served.LEDGERS):
        with contextlib.closing(served.ledger(number)) as ledger:
            for order, by in ledger.execute("SELECT order_name, by FROM effects"):
                found[order].append(by)
    return found
