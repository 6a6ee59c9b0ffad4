"""The suite over every adapter of ``ports.Launcher``: processes here, Jobs and pods in ``tests/e2e/test_launcher.py``.

An adapter is an async context manager that gives a ``Place``: a launcher, and manifests whose code, ``code/work.py``,
it can reach. Whoever wants the suite over a further one imports its tests into a module whose fixture ``on`` says so.

What differs by nature, and is no promise therefore, is told by the port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kapstan import ids, settings
from kapstan.cluster.local.processes import ProcessLauncher
from kapstan.ports import AttemptObservation, JobRequest, Key, Launcher, Manifest, WorkerObservation, WorkersRequest
from kapstan.queue import server
from kapstan.reconcile.naming import job_name
from kapstan.resources import API_VERSION

T = TypeVar("T")
CODE = Path(__file__).parent / "code"


def new_uid() -> str:
    return str(ids.to_uuid(ids.new_id()))


@dataclass(frozen=True)
class Owner:
    """A resource that what is launched belongs to."""

    key: Key
    uid: str = field(default_factory=new_uid)


async def nothing(_: Key) -> None:
    """For launchers that never ask whether an owner is there."""


@dataclass
class Place:
    """A launcher and what the tests need to use it."""

    make: Callable[[Callable[[Key], None]], Launcher]
    """A launcher as after a restart, which tells of the keys that it hears of."""
    flow_run: Owner
    task_worker: Owner
    image: str | None = None
    delete: Callable[[Key], Coroutine[Any, Any, None]] = nothing
    """Delete the object of an owner, as a user does."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    launcher: Launcher = field(init=False)

    def __post_init__(self) -> None:
        self.launcher = self.make(lambda _: self.heard.set())

    @property
    def run(self) -> Key:
        return self.flow_run.key

    @property
    def worker(self) -> Key:
        return self.task_worker.key

    def job(self, attempt: int = 1) -> str:
        return job_name(self.run.name, attempt)

    def request(self, flow: str, attempt: int = 1, **fields: Any) -> JobRequest:
        spec = {"flow": {"entrypoint": f"work.py:{flow}", "image": self.image}, "workPoolRef": {"name": "pool"}}
        given: dict[str, Any] = {
            "run": self.run,
            "uid": self.flow_run.uid,
            "run_id": ids.derived_id(self.flow_run.uid),
            "attempt": attempt,
            "job": self.job(attempt),
            "deployment": self._manifest(Owner(Key("Deployment", self.run.namespace, "nightly")), spec),
            "pool": self._manifest(Owner(Key("WorkPool", self.run.namespace, "pool")), {}),
            **fields,
        }
        return JobRequest(**given)

    def workers(self, replicas: int, **spec: Any) -> WorkersRequest:
        wanted = {"image": self.image, "tasks": ["work.py:double"], "replicas": replicas, **spec}
        return WorkersRequest(self._manifest(self.task_worker, wanted), replicas)

    def _manifest(self, owner: Owner, spec: dict[str, Any]) -> Manifest:
        kind, namespace, name = owner.key
        metadata = {"name": name, "namespace": namespace, "uid": owner.uid, "generation": 1}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}

    async def attempt(self, number: int = 1) -> AttemptObservation:
        jobs = [(number, self.job(number))]
        return (await self.launcher.observe_attempts(self.run, self.flow_run.uid, jobs))[0]

    async def members(self) -> WorkerObservation:
        return await self.launcher.observe_workers(self.worker, self.task_worker.uid)

    async def until(self, look: Callable[[], Coroutine[Any, Any, T]], holds: Callable[[T], bool]) -> T:
        """Look whenever something is heard, until it holds; the last look."""
        while True:
            self.heard.clear()
            found = await look()
            if holds(found):
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.heard.wait(), 1.0)


Adapter = Callable[[], AbstractAsyncContextManager[Place]]
On = Callable[[Callable[[Place], Coroutine[Any, Any, None]]], None]


def over(adapter: Adapter) -> On:
    """Runs an async test body over an adapter, within its time."""

    def run(body: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with adapter() as place, asyncio.timeout(100):
                await body(place)

        asyncio.run(inside())

    return run


@contextlib.asynccontextmanager
async def processes(folder: Path) -> AsyncGenerator[Place]:
    made: list[ProcessLauncher] = []

    def make(changed: Callable[[Key], None]) -> Launcher:
        made.append(ProcessLauncher(folder / "processes", CODE, changed=changed, say=lambda _: None))
        return made[-1]

    run, worker = Key("FlowRun", "default", "run"), Key("TaskWorker", "default", "mailer")
    try:
        yield Place(make, Owner(run), Owner(worker))
    finally:
        await made[-1].stop_all(5.0)
        for launcher in made:
            await launcher.close()
        server.stop(settings.current().home_path)


@pytest.fixture
def on(tmp_path: Path) -> On:
    return over(lambda: processes(tmp_path))
