"""Checkpoints of a segment log: many segments in one object, so that a resume reads few objects.

``<name>/c/<number>`` is a *chunk*: the 64 segments before ``number``. ``<name>/c/<number>b`` is a *block*: the 1,024
before it, which are 16 chunks one after the other. Both follow from what can no longer change: anybody may write them,
nobody needs to, and one that exists is right.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kapstan.errors import BackendError
from kapstan.ports import Store
from kapstan.store.framing import frames, scan
from kapstan.store.segment import damaged

CHUNK = 64  # a take-over reads up to so many single segments
BLOCK = 16  # chunks
BLOCK_BYTES = 2 * 1024 * 1024  # a writer holds a block in memory until it is full; of larger ones there are only chunks
READERS = 8  # more connections bring nothing


class Checkpoints:
    """Those of one log. ``load``, ``follow``, ``add`` and ``cut`` are called by one thread at a time."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._there: set[str] = set()  # keys that the last ``load`` saw
        self._blocked = 0  # how many segments, from the first, it saw in blocks
        self._tail: dict[int, bytes] = {}  # the segments since the last full chunk, by number
        self._gathered: dict[
            int, bytes
        ] = {}  # chunks of a block that is not full, by the number of their first segment
        self._threads: list[threading.Thread] = []

    def load(self) -> dict[int, bytes]:
        """The segments that are in checkpoints, by number, from 0 without a gap.

        Raises:
            StoreUnsafe: a checkpoint is damaged.
        """
        self._there = set(self._store.keys(f"{self._name}/c/"))
        found: dict[str, int] = {}  # how many segments each has
        number = self._blocked = 0
        while True:
            if (key := self._block_key(number + CHUNK * BLOCK)) in self._there:
                found[key] = CHUNK * BLOCK
                if self._blocked == number:
                    self._blocked += CHUNK * BLOCK
            elif (key := self._chunk_key(number + CHUNK)) in self._there:
                found[key] = CHUNK
            else:
                break  # one is missing: those after it are of no use until the next opener has written it
            number += found[key]
        segments: dict[int, bytes] = {}
        for body, count in zip(read_each(self._store, list(found)), found.values(), strict=True):
            bodies, end = scan(body or b"")
            if body is None or end != len(body) or len(bodies) != count:
                raise damaged(self._name, f"the checkpoint of segments {len(segments)} to {len(segments) + count - 1}")
            segments.update(enumerate(bodies, len(segments)))
        return segments

    def follow(self, segments: Mapping[int, bytes], end: int) -> None:
        """Begin behind the ``end`` segments that an opener has read and written. What is missing of their checkpoints
        is written in the background."""
        full = end // CHUNK * CHUNK
        self._tail = {number: segments[number] for number in range(full, end)}
        self._gathered = {}
        self._write([(at, [segments[at + n] for n in range(CHUNK)]) for at in range(self._blocked, full, CHUNK)])

    def add(self, number: int, segment: bytes) -> None:
        """Segment ``number`` has this body. It may be told twice."""
        self._tail[number] = segment

    def cut(self) -> None:
        """Write a chunk in the background if one is full."""
        if len(self._tail) >= CHUNK:
            tail, self._tail = list(self._tail.items()), {}
            self._write([(tail[0][0], [body for _, body in tail[:CHUNK]])])
            self._tail = dict(tail[CHUNK:])

    def close(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)  # a checkpoint that is not written costs the next opener a few reads, no more

    def _write(self, chunks: Sequence[tuple[int, Sequence[bytes]]]) -> None:
        """Write chunks (number of the first segment, segments) on a thread of their own, behind the one before."""
        if not chunks:
            return
        before = self._threads[-1:]

        def write() -> None:
            for other in before:
                other.join()
            try:
                for first, bodies in chunks:
                    self._write_chunk(first, frames(bodies))
            except BackendError:
                return  # the next opener finds it missing and writes it

        thread = threading.Thread(target=write, name="kapstan-checkpoint", daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _write_chunk(self, first: int, chunk: bytes) -> None:
        block = first // (CHUNK * BLOCK) * (CHUNK * BLOCK)
        if len(chunk) <= BLOCK_BYTES // BLOCK:
            self._gathered[first] = chunk
        if (key := self._chunk_key(first + CHUNK)) not in self._there:
            self._store.create(key, chunk)
        parts = [self._gathered.get(at) for at in range(block, block + CHUNK * BLOCK, CHUNK)]
        whole = [part for part in parts if part is not None]
        if len(whole) == BLOCK and (key := self._block_key(block + CHUNK * BLOCK)) not in self._there:
            self._store.create(key, b"".join(whole))
        # Also of a block before, which had a part that was too large or came too late.
        for at in [at for at in list(self._gathered) if at < block or len(whole) == BLOCK]:
            self._gathered.pop(at, None)

    def _chunk_key(self, end: int) -> str:
        return f"{self._name}/c/{end:010d}"

    def _block_key(self, end: int) -> str:
        return f"{self._name}/c/{end:010d}b"


def read_each(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """What stands under each of ``keys``, None where there is nothing; several at a time."""
    if len(keys) < 2:
        stored = [store.get(key) for key in keys]
    else:
        with ThreadPoolExecutor(min(READERS, len(keys)), thread_name_prefix="kapstan-read") as pool:
            stored = list(pool.map(store.get, keys))
    return [found.body if found else None for found in stored]
