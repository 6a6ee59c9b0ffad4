"""``RedisFlowRuns``: ``ports.FlowRuns`` on Redis, the index of flow runs of one namespace.

Leases are fenced by the attempt number; summaries have a TTL, an index by time and a channel, so that the operator
learns of an end at once. The truth is the journal in the store: what is missing here means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from kapstan.errors import ConfigurationError
from kapstan.ids import RunId, new_nonce
from kapstan.queue import scripts
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack

_TTL = 30 * 24 * 3600
_KEPT = 10_000


class RedisFlowRuns:
    """See ``ports.FlowRuns``. Shares the connections of ``queue``."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._prefix = queue.prefix
        self._lease_ms = round(queue.settings.lease_seconds * 1000)

    def lease(self, run_id: RunId, attempt: int, holder: str) -> RedisRunLease | None:
        if attempt < 0 or attempt > 999_999_999:
            raise ConfigurationError(f"attempt={attempt}: give 0 to 999,999,999")
        lease = RedisRunLease(self._queue, run_id, attempt, f"{holder}/{new_nonce()}", self._lease_ms)
        return lease if lease.act("take") else None

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        text = json.dumps({**summary, "run_id": run_id}, separators=(",", ":"))
        self._queue.call(scripts.flow_save.pack(self._prefix, run_id, text, _TTL, _KEPT))

    def load(self, run_id: RunId) -> dict[str, Any] | None:
        text = self._queue.command(pack("GET", f"{self._prefix}f:{run_id}"))
        return json.loads(text) if text else None

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        if limit < 1:
            return []
        ids = self._queue.command(pack("ZRANGE", f"{self._prefix}fi", 0, limit - 1, "REV"))
        if not ids:
            return []
        texts = self._queue.command(pack("MGET", *[f"{self._prefix}f:{run_id.decode()}" for run_id in ids]))
        return [json.loads(text) for text in texts if text]

    def watch(self, changed: Callable[[RunId], None], stop: Callable[[], bool]) -> None:
        wake = Wake()
        wire: Wire | None = None
        try:
            while not stop():
                if wire is None:
                    wire = self._subscribe(stop)
                    continue
                try:
                    push = wire.receive(0.5, wake)
                except ConnectionLost:
                    wire.close()
                    wire = None
                    continue
                if push is not None and push[0] == b"message":
                    changed(push[2].decode())
        finally:
            wake.close()
            if wire is not None:
                wire.close()

    def _subscribe(self, stop: Callable[[], bool]) -> Wire | None:
        """A connection that hears of every save; None if nobody answered for half a second."""

        def attempt() -> Wire:
            wire = self._queue.dial()
            wire.send(pack("SUBSCRIBE", f"{self._prefix}runs"))
            return wire

        return self._queue.try_for(0.5, attempt, stop)


class RedisRunLease:
    """See ``ports.RunLease``."""

    def __init__(self, queue: RedisQueue, run_id: RunId, attempt: int, holder: str, lease_ms: int) -> None:
        self._queue = queue
        self._arguments = (run_id, attempt, holder, lease_ms)

    def act(self, action: str) -> bool:
        """Take, renew or release it; whether that was granted."""
        run_id, attempt, holder, lease_ms = self._arguments
        packed = scripts.flow_lease.pack(self._queue.prefix, run_id, action, attempt, holder, lease_ms, _TTL)
        return bool(self._queue.call(packed)[1])

    def renew(self) -> bool:
        return self.act("renew")

    def release(self) -> None:
        self.act("release")
