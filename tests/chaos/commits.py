"""Counts ends where they happen: the message that the queue publishes for every end of a run, and only for that."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter

from redis.exceptions import RedisError

from kapstan.errors import QueueUnavailable
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack

_RID, _LENGTH = 22, 6


class Commits:
    """How often an end of each run was published that this process' queue had submitted. Follows the queue to another
    server; what is published while no connection stands is not seen.

    Attributes:
        follows: a connection stands. Once the server is dead and this is False, what it had published is counted.
    """

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._closed = False
        self.follows = False
        self._wake = Wake()
        self.seen: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closed:
            try:
                with contextlib.closing(self._queue.dial()) as wire:
                    self.follows = True
                    self._follow(wire)
            except (ConnectionLost, QueueUnavailable, RedisError, OSError):
                self.follows = False
                time.sleep(0.02)

    def _follow(self, wire: Wire) -> None:
        wire.send(pack("SUBSCRIBE", self._queue.channel))
        while not self._closed:
            item = wire.receive(0.5, self._wake)
            while item is not None:
                if isinstance(item, list) and item[0] == b"message":
                    self._take(item[2])
                item = wire.parsed()

    def _take(self, data: bytes) -> None:
        while data:
            size = int(data[_RID : _RID + _LENGTH])
            self.seen[data[:_RID].decode()] += 1
            data = data[_RID + _LENGTH + size :]

    def close(self) -> None:
        self._closed = True
        self._thread.join(10)
        self._wake.close()
