"""The control plane on this machine: the reconcilers with processes as what they start. No command of its own.

`dev` runs it for everything in the home, `worker` for one work pool, there or in a cluster. It composes; what is
decided stands in `reconcile`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from kapstan.backend import Backend
from kapstan.cluster.local.processes import ProcessLauncher
from kapstan.errors import BackendError, ConfigurationError
from kapstan.ports import BackgroundRuns, Cluster, Key, Manifest, Queue, RunRecords
from kapstan.reconcile import table
from kapstan.reconcile.loop import Loop
from kapstan.reconcile.retention import Retention
from kapstan.runs.records import Records
from kapstan.runs.retention import Ages
from kapstan.settings import Settings

LISTEN_AGAIN = 1.0


class Control:
    """One process of the local control plane.

    Args:
        directory: where code comes from unless a resource names another directory.
        pool: serve this WorkPool only.
        say: called with lines that a person should read.
        heard: called with every resource as it changes; its second argument is None when it is gone.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        directory: Path,
        *,
        pool: Key | None = None,
        say: Callable[[str], None],
        heard: Callable[[Key, Manifest | None], None] | None = None,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._retention: Retention | None = None
        if pool is None:
            # A store of many machines has FlowRuns that this one cannot see.
            self._retention = Retention(
                Ages.from_settings(settings),
                cluster,
                lambda: {settings.namespace, *self._backends},
                self._backend,
                sees_all=not settings.s3_endpoint,
            )
        self._tell = heard or _tell_nobody
        self._stopping = threading.Event()
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()
        home = settings.home_path.resolve()
        environ = {**os.environ, "KAPSTAN_HOME": str(home)}
        self.launcher = ProcessLauncher(home / "processes", directory, changed=self._changed, say=say, environ=environ)
        self.loop = Loop(
            cluster,
            {"process": self.launcher} if pool else {"process": self.launcher, "kubernetes": self.launcher},
            None if pool else self.launcher,
            self.records,
            self.queue,
            runs=self.runs,
            pool=pool,
        )

    def records(self, namespace: str) -> RunRecords:
        return Records(self._backend(namespace))

    def runs(self, namespace: str) -> BackgroundRuns:
        return self._backend(namespace).background_runs

    def queue(self, namespace: str) -> Queue:
        return self._backend(namespace).queue

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        """Reconcile until ``stop``; then end what was started here, which goes on from there at the next start."""
        await self.launcher.open()
        await self.loop.sync()
        feed = asyncio.create_task(self._feed())
        work = asyncio.create_task(self.loop.run(stop))
        sweeping = asyncio.create_task(self._swept(stop))
        try:
            await asyncio.wait([feed, work], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await work
            if feed.done():
                await feed
        finally:
            stop.set()
            await sweeping
            feed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feed
            self._stopping.set()
            await self.launcher.stop_all(grace)
            await self.launcher.close()
            for backend in self._backends.values():
                backend.close()

    async def _swept(self, stop: asyncio.Event) -> None:
        if self._retention is not None:
            await self._retention.run(stop)

    async def _feed(self) -> None:
        async for change, manifest in self._cluster.changes(table.KINDS):
            key = Key(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
            if change == "deleted":
                self.loop.deleted(manifest)
                self._tell(key, None)
            else:
                self.loop.changed(manifest)
                self._tell(key, manifest)

    def _changed(self, key: Key) -> None:
        self.loop.enqueue(key)

    def _backend(self, namespace: str) -> Backend:
        with self._lock:
            if namespace not in self._backends:
                backend = self._backends[namespace] = Backend(replace(self._settings, namespace=namespace))
                listener = threading.Thread(
                    target=self._listen, args=(backend,), name=f"records-{namespace}", daemon=True
                )
                listener.start()
            return self._backends[namespace]

    def _listen(self, backend: Backend) -> None:
        """Hear of every record that is written: how the end of a run is known before its process has gone."""
        while not self._stopping.is_set():
            try:
                backend.flow_runs.watch(self.loop.record_changed, self._stopping.is_set)
            except BackendError:
                self._stopping.wait(LISTEN_AGAIN)


def _tell_nobody(key: Key, manifest: Manifest | None) -> None:
    """Nobody wants to know."""
    del key, manifest


@contextlib.contextmanager
def serving(settings: Settings, pool: Key | None) -> Generator[None]:
    """Hold the right to run processes for this home: for everything in it, or for one pool.

    Raises:
        ConfigurationError: another process of this home has it.
    """
    folder = settings.home_path / "serving"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        everything = fcntl.LOCK_EX if pool is None else fcntl.LOCK_SH
        what = "kapstan dev" if pool is not None else "kapstan dev or kapstan worker"
        _hold(stack, folder / "all", everything, f"{what} already runs for {settings.home_path}: end it first")
        if pool is not None:
            path = folder / f"{pool.namespace}.{pool.name}"
            _hold(stack, path, fcntl.LOCK_EX, f"a worker of pool {pool.name!r} already runs on this machine")
        yield


def _hold(stack: contextlib.ExitStack, path: Path, how: int, otherwise: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(otherwise) from None


def until_signal() -> asyncio.Event:
    """An event that the first SIGTERM or Ctrl-C sets; the second one ends the process as it would have anyway."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, hear)
    return stop
