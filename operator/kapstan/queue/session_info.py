"""A worker session as its hash tells it; for ``RedisQueue.sessions``."""

from __future__ import annotations

from kapstan.ports import SessionInfo
from kapstan.queue.record import Route, fields_of, is_run_id


def session_info(name: str, now_ms: float, fields: dict[bytes, bytes]) -> SessionInfo | None:
    """None: it has ended, or another program wrote to its key."""
    info = fields_of(fields.get(b"@", b"")) or {}
    try:
        return SessionInfo(
            session=name,
            worker=str(info["worker"]),
            served=tuple((route.task, route.queue) for route in map(Route.parse, map(str, info["routes"]))),
            lanes=int(info["lanes"]),
            claimed=sum(is_run_id(field) for field in fields),
            draining=b"!" in fields,
            lease_left=(float(info["lease"]) - max(0.0, now_ms - int(fields[b"="]))) / 1000,
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
