"""A program that makes or reads one large result and says how much memory that took beside the value itself.

usage: large_results.py (store|read|flow) (bytes|text) MIB [KEY]

It prints the growth of the process' peak from before the call, in parts of the value's size. A value that it makes
itself is there before, one that it reads is part of the growth.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from kapstan import flow, task
from kapstan.results import ResultStore

MIB = 1 << 20


def made(kind: str, size: int) -> Any:
    block = hashlib.shake_128(b"seed").digest(MIB)
    return block * size if kind == "bytes" else block.hex()[:MIB] * size


def digest(value: Any) -> str:
    whole = hashlib.sha256()
    for start in range(0, len(value), MIB):
        part = value[start : start + MIB]
        whole.update(part if isinstance(part, bytes) else part.encode())
    return whole.hexdigest()


def peak() -> int:
    """Bytes; not `ru_maxrss`, which takes over the peak of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


VALUES: list[Any] = []


@task(name="makes one large result")
def large() -> Any:
    return VALUES[0]


@flow(name="has one large result")
def has_one() -> int:
    return len(large())


def main(way: str, kind: str, size: int, key: str) -> None:
    store = ResultStore()
    store.write([1], "warm")
    assert store.read("warm").result == [1]
    VALUES.append([1])
    has_one()
    value = None if way == "read" else made(kind, size)
    VALUES[0] = value
    before = peak()
    if way == "store":
        store.write(value, key)
    elif way == "flow":
        has_one()
    else:
        value = store.read(key).result
    grown = (peak() - before) / (size * MIB)
    print(f"{grown:.3f} {digest(value)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "large")
