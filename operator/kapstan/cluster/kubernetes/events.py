"""Kubernetes Events, counted instead of repeated and never more than a few a second.

`KubernetesCluster` records through it. An Event is advice to a human: losing one harms nothing, so nothing here raises
for a request that failed, and nothing waits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from kapstan.cluster.kubernetes.client import EVENTS, Client
from kapstan.errors import KapstanError, ResourceConflict

log = logging.getLogger("kapstan.operator")

MESSAGE_LIMIT = 1000
BURST, PER_SECOND = 50, 5.0
REPEAT_SECONDS = 60.0
REMEMBERED = 4096


@dataclass(slots=True)
class _Series:
    count: int
    first: str
    written_at: float


class Recorder:
    """Writes Events under one component's name.

    An event that repeats raises the count of the first; within a minute it is not even written.
    """

    def __init__(self, client: Client, component: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._component = component
        self._clock = clock
        self._recent: OrderedDict[str, _Series] = OrderedDict()
        self._tokens, self._filled_at = float(BURST), clock()

    async def record(
        self, about: dict[str, str], severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        now = self._clock()
        digest = hashlib.sha256("\0".join((about["uid"], reason, message)).encode()).hexdigest()[:16]
        series = self._recent.pop(digest, None)
        if series is not None:
            series.count += 1
            self._recent[digest] = series
            if now - series.written_at < REPEAT_SECONDS:
                return
        if not self._take_token(now):
            return
        series = series or _Series(1, _timestamp(), now)
        series.written_at = now
        self._recent[digest] = series
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        try:
            await self._write(_event(about, digest, severity, reason, message, series, self._component))
        except KapstanError as error:
            log.warning("an Event about %s %s was not recorded: %s", about["kind"], about["name"], error)

    async def _write(self, event: dict[str, Any]) -> None:
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        try:
            await self._client.create(EVENTS.path(namespace), event, field_manager=self._component)
        except ResourceConflict:
            again = {"count": event["count"], "lastTimestamp": event["lastTimestamp"]}
            await self._client.patch(EVENTS.path(namespace, name), again, field_manager=self._component)

    def _take_token(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * PER_SECOND)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _event(
    about: dict[str, str], digest: str, severity: str, reason: str, message: str, series: _Series, component: str
) -> dict[str, Any]:
    now = _timestamp()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": about["namespace"], "name": f"{about['name']}.{digest}"},
        "involvedObject": about,
        "type": severity,
        "reason": reason,
        "message": message[:MESSAGE_LIMIT],
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": os.environ.get("HOSTNAME", ""),
        "firstTimestamp": series.first,
        "lastTimestamp": now,
        "count": series.count,
    }


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
