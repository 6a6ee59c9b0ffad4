"""The operator: watches, elects, reconciles, and ends in an order in which nothing is done twice.

`kapstan operator start` runs it. Every pod of the operator watches and keeps its caches warm; only the leader
reconciles. At SIGTERM it finishes what it is doing, releases the Lease and goes; where it lost the Lease it goes at
once, writing nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import kopf

from kapstan.cluster.kubernetes.cache import Cache
from kapstan.cluster.kubernetes.client import Client
from kapstan.cluster.kubernetes.cluster import KubernetesCluster
from kapstan.cluster.kubernetes.elector import Elector
from kapstan.cluster.kubernetes.launcher import KubernetesLauncher
from kapstan.cluster.kubernetes.render import SecretKey
from kapstan.controllers.health import HealthServer
from kapstan.controllers.informers import Informers
from kapstan.controllers.namespaces import Namespaces
from kapstan.controllers.watches import SERVER_SECONDS, Watches
from kapstan.errors import ConfigurationError, NotFound
from kapstan.ids import new_nonce
from kapstan.reconcile.loop import Loop
from kapstan.reconcile.retention import Retention
from kapstan.resources import API_VERSION, GROUP, KINDS, VERSION
from kapstan.runs.retention import Ages
from kapstan.settings import Settings

log = logging.getLogger("kapstan.operator")

OLDEST = (1, 32)
"""Selectable fields of custom resources are stable since then."""

SLOW_START = 180.0
"""Seconds after which an operator whose caches are not filled, though nothing is denied to it, is restarted."""
REFUSED_SECONDS = 60.0
"""Seconds after which one that is refused the Lease is restarted: what it was given at its start does not suffice."""

SWEEP_END = 5.0
"""Seconds that a sweep of retention has to come to its next object and end."""

LOST = 3
"""Exit code of a leader that lost its Lease."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `kapstan operator start`. ``namespaces`` None: all of them."""

    namespaces: tuple[str, ...] | None
    signing_keys: Path
    lease_namespace: str
    lease_name: str
    lease_seconds: float = 15.0
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0
    health_port: int = 8080
    credentials: Path | None = None
    restricted: bool = True
    """Whether pods are held to Pod Security `restricted`, whatever their templates say."""
    redis: SecretKey | None = None
    """Where pods find the address of Redis, in a Secret of their namespace; None: beside their other settings."""


class Operator:
    """One process of the operator."""

    def __init__(self, settings: Settings, options: Options, client: Client, watches: Watches) -> None:
        self._options = options
        self._client = client
        self._watches = watches
        cache = Cache()
        launcher = KubernetesLauncher(client, cache, restricted=options.restricted, redis=options.redis)
        self._namespaces = Namespaces(settings, options.signing_keys, self._record_changed, options.credentials)
        cluster = KubernetesCluster(client)
        self._loop = Loop(
            cluster,
            {"kubernetes": launcher},
            launcher,
            self._namespaces.records,
            self._namespaces.queue,
            runs=self._namespaces.runs,
        )
        self._retention = Retention(
            Ages.from_settings(settings),
            cluster,
            lambda: options.namespaces or self._namespaces.names(),
            self._namespaces.backend,
        )
        self._informers = Informers(client, self._loop, cache, options.namespaces)
        self._elector = Elector(
            client,
            options.lease_namespace,
            options.lease_name,
            f"{os.environ.get('HOSTNAME', 'operator')}_{new_nonce()}",
            lease_seconds=options.lease_seconds,
            renew_seconds=options.renew_seconds,
            retry_seconds=options.retry_seconds,
        )
        self._leading = False
        self._stop = asyncio.Event()
        self._begun = time.monotonic()
        watches.opened = self._informers.watch_opened
        watches.denied = self._informers.watch_denied

    def _record_changed(self, run_id: str) -> None:
        self._loop.record_changed(run_id)

    # ------------------------------------------------------------------ health

    def healthy(self) -> dict[str, Any]:
        return {"problems": [*self._watches.dead(), *self._stuck()]}

    def _stuck(self) -> list[str]:
        """Why it does not serve although it should; empty while something that can be seen keeps it."""
        now = time.monotonic()
        if not self._informers.filled.is_set():
            begun = now - self._begun
            denied = any(map(self._watches.is_denied, self._informers.streams))
            return [] if denied or begun < SLOW_START else [f"the caches are not filled after {begun:.0f} s"]
        since = self._elector.refused_since
        refused = 0.0 if since is None else now - since
        return [f"the Lease has been refused for {refused:.0f} s"] if refused > REFUSED_SECONDS else []

    def ready(self) -> dict[str, Any]:
        problems = [*self._informers.missing(), *self._watches.refused(), *self._watches.dead(), *self._stuck()]
        seen = {"leading": self._leading, "waiting": len(self._loop.queue), "retention": self._retention.last}
        return {"problems": problems, **seen}

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Until SIGTERM.

        Raises:
            ConfigurationError: the cluster is too old, or lacks our kinds.
        """
        await _check_version(self._client)
        await _check_kinds(self._client)
        health = HealthServer(self.healthy, self.ready, self._options.health_port)
        await health.start()
        self._watches.expect(self._informers.streams)
        kopf_stop = asyncio.Event()
        watching = asyncio.create_task(self._watch(kopf_stop), name="watch")
        working = asyncio.create_task(self._work(), name="work")
        try:
            await asyncio.wait([watching, working], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                # kopf takes every task of the process with it when it ends.
                log.critical("the watches ended by themselves: %s", _why(watching))
                os._exit(1)
            working.result()
        finally:
            kopf_stop.set()
            await asyncio.wait([watching], timeout=3)
            self._namespaces.close()
            await health.close()

    async def _watch(self, stop: asyncio.Event) -> None:
        registry, settings = kopf.OperatorRegistry(), kopf_settings()
        self._informers.register(registry, settings)
        kopf.on.login(registry=registry)(self._login)
        scope: dict[str, Any] = (
            {"clusterwide": True} if self._options.namespaces is None else {"namespaces": self._options.namespaces}
        )
        ours = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(registry=registry, settings=settings, stop_flag=stop, **scope)
        # kopf has just taken the signals for itself, and would end before what depends on it.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        await kopf.run_tasks(tasks, ignored=ours)

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=self._client.server, default_namespace=self._client.namespace, aiohttp_session=self._client.watching
        )

    async def _work(self) -> None:
        """Lead, once the caches are filled and the Lease is ours."""
        if not await self._unless_stopped(self._informers.filled.wait()):
            return
        log.info("caches are filled; waiting for the Lease %s", self._elector.name)
        if not await self._unless_stopped(self._elector.acquire()):
            return
        self._leading = True
        log.info("leading as %s, change of leader %d", self._elector.identity, self._elector.transitions)
        holding = asyncio.create_task(self._elector.hold(), name="hold")
        reconciling = asyncio.create_task(self._loop.run(self._stop), name="reconcile")
        sweeping = asyncio.create_task(self._retention.run(self._stop), name="retention")
        await asyncio.wait([holding, reconciling], return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            _leave(f"the Lease was lost: {_why(holding)}")
        if not self._stop.is_set():
            _leave(f"the reconcile loop ended by itself: {_why(reconciling)}")
        await asyncio.wait([sweeping], timeout=SWEEP_END)
        holding.cancel()
        await asyncio.wait([holding])
        await self._elector.release()
        self._leading = False
        log.info("released the Lease")

    async def _unless_stopped(self, waiting: Awaitable[Any]) -> bool:
        """Wait for it; False if the operator is stopped first."""
        task, stopped = asyncio.ensure_future(waiting), asyncio.create_task(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
            return not self._stop.is_set()
        task.cancel()
        return False


async def run(settings: Settings, options: Options) -> None:
    """Run one process of the operator until SIGTERM."""
    watches = Watches()
    client = await Client.connect(settings.kubeconfig, middlewares=(watches.observe,))
    try:
        await Operator(settings, options, client, watches).run()
    finally:
        await client.close()


def kopf_settings() -> kopf.OperatorSettings:
    """kopf with everything off that writes, and nothing that gives up."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    # An endless row also paces the watches: twice a second, where the default rests for up to 21 s after an outage.
    settings.networking.error_backoffs = itertools.repeat(0.5)
    settings.networking.request_timeout = 20
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = SERVER_SECONDS + 30
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    # A watch that waits for headers is never cancelled (kopf 1.45): without this the process would live on, deaf.
    settings.process.ultimate_exiting_timeout = 5
    return settings


async def _check_version(client: Client) -> None:
    answer = await client.get("/version")
    version = (int(answer["major"]), int("".join(itertools.takewhile(str.isdigit, answer["minor"]))))
    if version < OLDEST:
        raise ConfigurationError(
            f"Kubernetes {version[0]}.{version[1]} is too old: Kapstan needs {OLDEST[0]}.{OLDEST[1]} or newer"
        )


async def _check_kinds(client: Client) -> None:
    """kopf would wait for a missing kind in silence, for ever."""
    try:
        served = {item["kind"] for item in (await client.get(f"/apis/{GROUP}/{VERSION}"))["resources"]}
    except NotFound:
        served = set[str]()
    missing = [model.plural for kind, model in KINDS.items() if kind not in served]
    if missing:
        raise ConfigurationError(
            f"the cluster does not know {', '.join(missing)} of {API_VERSION}: install them with the chart "
            "(crds.install=true) or `kapstan crds | kubectl apply -f -`"
        )


def _why(task: asyncio.Task[None]) -> str:
    if not task.done() or task.cancelled():
        return "cancelled"
    return repr(task.exception()) if task.exception() else "it returned"


def _leave(reason: str) -> NoReturn:
    """End now: whoever leads next must not meet a late write of ours."""
    log.critical("%s; ending at once", reason)
    logging.shutdown()
    os._exit(LOST)
