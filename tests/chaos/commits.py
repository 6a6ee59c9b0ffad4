"""Counts commits where they happen: the message that the queue publishes for every end of a run, and only for that."""

from __future__ import annotations

import threading
import time

import redis

from kapstan.queue.redis import RedisQueue

_RID, _LENGTH = 22, 6


class Commits:
    """Every commit of a run that this process' queue submitted, with its time (monotonic)."""

    def __init__(self, client: redis.Redis, queue: RedisQueue) -> None:
        self._client = client
        self._channel = queue.channel
        self._subscription = client.pubsub(ignore_subscribe_messages=True)
        self._subscription.subscribe(self._channel)
        self._subscription.get_message(timeout=5)
        self._changed = threading.Condition()
        self.times: dict[str, list[float]] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for message in self._subscription.listen():
            data, now = message["data"], time.monotonic()
            if data == b"the end":
                return
            with self._changed:
                while data:
                    size = int(data[_RID : _RID + _LENGTH])
                    self.times.setdefault(data[:_RID].decode(), []).append(now)
                    data = data[_RID + _LENGTH + size :]
                self._changed.notify_all()

    def wait_for(self, count: int, timeout: float) -> bool:
        """Block until ``count`` runs have ended; False if they have not within ``timeout``."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.times) >= count, timeout)

    def wait_for_next(self, timeout: float) -> None:
        """Block until one more run has ended, at most ``timeout`` seconds."""
        self.wait_for(len(self.times) + 1, timeout)

    def close(self) -> None:
        self._client.publish(self._channel, b"the end")
        self._thread.join(10)
        self._subscription.close()
