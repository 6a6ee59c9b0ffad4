"""Names of what is made from something else: pure functions of the parent, so that making twice makes once.

Called by the reconcilers and by whoever must find a child. Every name fits into 63 characters, the limit of a label and
of the name of a Job's pod.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from kapstan.ids import RunId, derived_id, encode

LIMIT = 63
DIGEST = 10

_NOT_NAME = re.compile(r"[^a-z0-9]+")


def child_name(parent: str, *parts: str, limit: int = LIMIT) -> str:
    """``parent-part-part`` as a DNS label; a hash of all of them makes up for what is lost where it is too long, where
    a part has other characters, or where a ``-`` within a part hides where the parts begin.
    """
    plain = "-".join((parent, *parts))
    slug = _NOT_NAME.sub("-", plain.lower()).strip("-")
    if slug == plain and len(slug) <= limit and not any("-" in part for part in parts):
        return slug
    digest = hashlib.sha256("\0".join((parent, *parts)).encode()).hexdigest()[:DIGEST]
    return f"{slug[: limit - DIGEST - 1].rstrip('-')}-{digest}"


def job_name(run: str, attempt: int) -> str:
    """The Job (or process) of one attempt of a flow run."""
    return child_name(run, str(attempt))


def scheduled_run_name(deployment: str, schedule: str, moment: datetime) -> str:
    """The FlowRun that a schedule makes for a moment: the same for every operator that makes it."""
    return child_name(deployment, schedule, str(int(moment.timestamp())))


def run_id_of_key(namespace: str, deployment: str, idempotency_key: str) -> RunId:
    """The run that an idempotency key asks for, a UUIDv8: the same for every object that carries it."""
    return derived_id("FlowRun", namespace, deployment, idempotency_key)


def run_id_of(uid: str, created: datetime) -> RunId:
    """The run of a FlowRun object, a UUIDv7 of its creation: follows from the object, so that no write can lose it."""
    digest = int.from_bytes(hashlib.sha256(f"FlowRun\0{uid}".encode()).digest()[:10], "big")
    milliseconds = int(created.timestamp() * 1000)
    return encode(milliseconds << 80 | 0x7 << 76 | (digest >> 62 & 0xFFF) << 64 | 0b10 << 62 | digest & (1 << 62) - 1)
