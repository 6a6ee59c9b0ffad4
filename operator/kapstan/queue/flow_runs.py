"""``RedisFlowRuns``: ``ports.FlowRuns`` on Redis, the index of flow runs of one namespace.

Leases are fenced by the attempt number; summaries have a TTL, an index by time and a channel, so that the operator
learns of an end at once. Each is signed for its run with the namespace's key: where tenants share a Redis, one that is
not signed so was written by somebody else. The truth is the journal in the store: what is missing here means nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from kapstan.codec import JSON, Codec
from kapstan.errors import ConfigurationError, SerializationError, SignatureError
from kapstan.ids import RunId, new_nonce
from kapstan.ports import IndexedRun, LeaseHolder
from kapstan.queue import scripts
from kapstan.queue.record import is_run_id
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import ConnectionLost, Wake, Wire, pack

log = logging.getLogger("kapstan.queue")
_TTL = 30 * 24 * 3600
_KEPT = 1_000_000
_TIES = 16  # more that are read beside a page, for runs of the same millisecond


class RedisFlowRuns:
    """See ``ports.FlowRuns``. Shares the connections of ``queue``; ``codec`` signs summaries and verifies them."""

    def __init__(self, queue: RedisQueue, codec: Codec) -> None:
        self._queue = queue
        self._codec = codec
        self._prefix = queue.prefix
        self._lease_ms = round(queue.settings.lease_seconds * 1000)

    def lease(self, run_id: RunId, attempt: int, holder: str) -> RedisRunLease | None:
        if attempt < 0 or attempt > 999_999_999:
            raise ConfigurationError(f"attempt={attempt}: give 0 to 999,999,999")
        lease = RedisRunLease(self._queue, run_id, attempt, f"{holder}/{new_nonce()}", self._lease_ms)
        return lease if lease.act("take") else None

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        body = json.dumps({**summary, "run_id": run_id}, separators=(",", ":")).encode()
        envelope = self._codec.seal(JSON, body, "summary", _place(run_id))
        self._queue.call(scripts.flow_save.pack(self._prefix, run_id, envelope, _TTL, _KEPT))

    def load(self, run_id: RunId) -> dict[str, Any] | None:
        return self._summary(run_id, self._queue.command(pack("GET", f"{self._prefix}f:{run_id}")))

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        return [run.summary for run in self.newest(limit) if run.summary is not None]

    def newest(self, limit: int, before: tuple[int, RunId] | None = None) -> list[IndexedRun]:
        places: list[tuple[int, RunId]] = []
        offset, top = 0, "+inf" if before is None else before[0]
        while len(places) < limit:
            size = limit + _TIES
            part = ("ZRANGE", f"{self._prefix}fi", top, "-inf", "BYSCORE", "REV", "LIMIT", offset, size, "WITHSCORES")
            found = self._queue.command(pack(*part))
            known = [(int(at), name.decode()) for name, at in found if is_run_id(name) and abs(at) < 1e15]
            places += [place for place in known if before is None or place < before]
            offset += size
            if len(found) < size:
                break
        del places[max(0, limit) :]
        if not places:
            return []
        texts = self._queue.command(pack("MGET", *[f"{self._prefix}f:{run_id}" for _, run_id in places]))
        return [
            IndexedRun(at, run_id, self._summary(run_id, text))
            for (at, run_id), text in zip(places, texts, strict=True)
        ]

    def _summary(self, run_id: RunId, envelope: bytes | None) -> dict[str, Any] | None:
        if not envelope:
            return None
        try:
            found = self._codec.decode_json(envelope, "summary", _place(run_id))
        except (SignatureError, SerializationError, ValueError) as error:
            log.warning("The index is not believed, the journal tells where flow run %s stands: %s", run_id, error)
            return None
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None

    def holders(self, run_ids: Sequence[RunId]) -> list[LeaseHolder | None]:
        if not run_ids:
            return []
        leases = self._queue.commands([pack("GET", f"{self._prefix}fl:{run_id}") for run_id in run_ids])
        seconds, micros = self._queue.command(pack("TIME"))
        now = int(seconds) * 1000 + int(micros) // 1000
        return [_holder(lease, now) if lease else None for lease in leases]

    def ask_cancel(self, run_id: RunId, attempt: int) -> None:
        self._queue.command(pack("SET", f"{self._prefix}fc:{run_id}", f"{attempt:09d}", "EX", _TTL))

    def delete(self, run_id: RunId) -> bool:
        keys = [f"{self._prefix}{name}:{run_id}" for name in ("f", "fl", "fc")]
        there, _ = self._queue.commands([pack("ZREM", f"{self._prefix}fi", run_id), pack("DEL", *keys)])
        return bool(there)

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
                if push is not None and push[0] == b"message" and is_run_id(push[2]):
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
        self._cancel_asked = False

    @property
    def cancel_asked(self) -> bool:
        return self._cancel_asked

    def act(self, action: str) -> bool:
        """Take, renew or release it; whether that was granted."""
        run_id, attempt, holder, lease_ms = self._arguments
        packed = scripts.flow_lease.pack(self._queue.prefix, run_id, action, attempt, holder, lease_ms, _TTL)
        _, granted, cancelled = self._queue.call(packed)
        self._cancel_asked = self._cancel_asked or bool(cancelled)
        return bool(granted)

    def renew(self) -> bool:
        return self.act("renew")

    def release(self) -> None:
        self.act("release")


def _holder(lease: bytes, now: int) -> LeaseHolder | None:
    if not lease[:23].isdigit() or len(lease) < 23:
        return None  # another program wrote it
    return LeaseHolder(int(lease[:9]), lease[23:].decode(errors="replace").partition("/")[0], int(lease[9:23]) > now)


def _place(run_id: RunId) -> str:
    """What a summary is signed for: this run, and its place in the index."""
    return f"index/{run_id}"
