"""The control plane's duty of retention: a sweep of each namespace, now and then, beside the reconcilers.

Whoever leads does it; that two do it at once is safe. A sweep works on a thread of its own, and no reconciler waits for
it. A namespace whose store, Redis or API server is away is logged once and left for the next time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from kapstan.backend import Backend
from kapstan.errors import InvalidResource, KapstanError
from kapstan.ports import Cluster
from kapstan.reconcile.held import held
from kapstan.runs.retention import Ages, Held
from kapstan.runs.sweep import Report, Sweep

log = logging.getLogger("kapstan.retention")

INTERVAL = 3600.0
"""Seconds between two sweeps, give or take a tenth; the first comes after a tenth of that."""

Wait = Callable[[float], Awaitable[bool]]
"""Waits for so many seconds, or until the process is to end: True then."""


class Retention:
    """The sweeps of one process.

    Args:
        ages: after how long what goes; None: nothing ever does.
        cluster: where FlowRuns are.
        namespaces: those to sweep.
        backend: that of a namespace.
        sees_all: whether all FlowRuns of these stores are in ``cluster``; else what deployments made stays.
        jitter: a number from 0 to 1, for the pause before a sweep.
        now: Unix seconds by the store's clock, for tests; None: as the store says.
    """

    def __init__(
        self,
        ages: Ages | None,
        cluster: Cluster,
        namespaces: Callable[[], Iterable[str]],
        backend: Callable[[str], Backend],
        *,
        sees_all: bool = True,
        interval: float = INTERVAL,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._ages = ages
        self._cluster = cluster
        self._namespaces = namespaces
        self._backend = backend
        self._sees_all = sees_all
        self._interval = interval
        self._jitter = jitter
        self._now = now
        self._ending = threading.Event()
        self._away: set[str] = set()
        self.last: dict[str, dict[str, Any]] = {}
        """By namespace: its last sweep, for whoever asks after the process' health."""

    async def run(self, stop: asyncio.Event, wait: Wait | None = None) -> None:
        """Sweep again and again until ``stop``; a sweep that is at work then ends at its next object."""
        if self._ages is None:
            return
        self._ending.clear()
        ending = asyncio.create_task(self._end_with(stop))
        wait = wait or _until(stop)
        pause = self._interval * 0.1
        try:
            while not await wait(pause * (0.9 + 0.2 * self._jitter())):
                await self.sweep()
                pause = self._interval
        finally:
            self._ending.set()
            ending.cancel()

    async def sweep(self) -> None:
        """One sweep of each namespace, one after the other. Raises nothing: what fails is logged and counted."""
        for namespace in list(self._namespaces()):
            if self._ages is None or self._ending.is_set():
                return
            try:
                report = await self._sweep(namespace, self._ages)
            except (KapstanError, OSError) as error:
                self._failed(namespace, error)
            except Exception as error:
                log.exception("retention of namespace %s", namespace)
                self._failed(namespace, error)
            else:
                self._done(namespace, report)

    async def _sweep(self, namespace: str, ages: Ages) -> Report:
        kept: Held | None = None
        if self._sees_all:
            try:
                kept = await held(self._cluster, namespace)
            except InvalidResource as error:
                log.warning("retention of namespace %s leaves what deployments made alone: %s", namespace, error)
        return await asyncio.to_thread(self._swept, namespace, ages, kept)

    def _swept(self, namespace: str, ages: Ages, kept: Held | None) -> Report:
        now = None if self._now is None else self._now()
        return Sweep(self._backend(namespace), ages, kept, stop=self._ending.is_set, now=now).run()

    async def _end_with(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._ending.set()

    # ------------------------------------------------------------------ what is told

    def _failed(self, namespace: str, error: Exception) -> None:
        if namespace not in self._away:
            self._away.add(namespace)
            log.warning("retention of namespace %s is put off: %s", namespace, error)
        before = self.last.get(namespace, {})
        self.last[namespace] = {**before, "error": str(error), "failures": before.get("failures", 0) + 1}

    def _done(self, namespace: str, report: Report) -> None:
        if namespace in self._away:
            self._away.discard(namespace)
            log.warning("retention of namespace %s works again", namespace)
        if report.items or report.refusals:
            went = ", ".join(f"{count} {kind}" for kind, count in sorted(report.items.items()))
            size = sum(report.sizes.values())
            log.info("retention of namespace %s: %s went (%d bytes)", namespace, went or "nothing", size)
        for key, reason in list(report.refused.items())[:5]:
            log.warning("retention of namespace %s: the store refused to delete %s: %s", namespace, key, reason)
        self.last[namespace] = {
            "at": round(time.time()),
            "went": dict(report.items),
            "bytes": sum(report.sizes.values()),
            "kept": {why.name.lower(): count for why, count in report.kept.items()},
            "refused": report.refusals,
            "failures": self.last.get(namespace, {}).get("failures", 0),
        }


def _until(stop: asyncio.Event) -> Wait:
    async def wait(seconds: float) -> bool:
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    return wait
