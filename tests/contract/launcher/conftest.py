"""The adapters of ``ports.Launcher`` that the suite is run over.

An adapter is an async context manager that gives a ``Place``: a launcher, and manifests whose code it can reach. A
further one is added here, as one more entry of ``ADAPTERS``. The code is ``CODE``: flows and a task for a file called
work.py.
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
RUN = Key("FlowRun", "default", "run")
WORKER = Key("TaskWorker", "default", "mailer")

CODE = """
import os, threading
from kapstan import flow, task

@flow
def quick(x: int = 1) -> int:
    return x

@flow
def fails() -> None:
    raise ValueError("no")

@flow
def waits() -> None:
    threading.Event().wait(120)

@task
def double(x: int) -> int:
    return 2 * x
"""


@dataclass
class Place:
    """A launcher and what the tests need to use it."""

    make: Callable[[Callable[[Key], None]], Launcher]
    image: str | None
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    launcher: Launcher = field(init=False)
    uid: str = field(default_factory=lambda: str(ids.to_uuid(ids.new_id())))
    run: Key = RUN
    worker: Key = WORKER

    def __post_init__(self) -> None:
        self.launcher = self.make(lambda _: self.heard.set())

    def request(self, flow: str, attempt: int = 1, **fields: Any) -> JobRequest:
        spec = {"flow": {"entrypoint": f"work.py:{flow}", "image": self.image}, "workPoolRef": {"name": "pool"}}
        given: dict[str, Any] = {
            "run": self.run,
            "uid": self.uid,
            "run_id": ids.derived_id(self.uid),
            "attempt": attempt,
            "job": job_name(self.run.name, attempt),
            "deployment": self.manifest("Deployment", "nightly", spec),
            "pool": self.manifest("WorkPool", "pool", {}),
            **fields,
        }
        return JobRequest(**given)

    def workers(self, replicas: int, **spec: Any) -> WorkersRequest:
        wanted = {"image": self.image, "tasks": ["work.py:double"], "replicas": replicas, **spec}
        return WorkersRequest(self.manifest("TaskWorker", self.worker.name, wanted), replicas)

    def manifest(self, kind: str, name: str, spec: dict[str, Any]) -> Manifest:
        metadata = {"name": name, "namespace": "default", "uid": self.uid, "generation": 1}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}

    async def attempt(self, number: int = 1) -> AttemptObservation:
        jobs = [(number, job_name(self.run.name, number))]
        return (await self.launcher.observe_attempts(self.run, self.uid, jobs))[0]

    async def members(self) -> WorkerObservation:
        return await self.launcher.observe_workers(self.worker, self.uid)

    async def until(self, look: Callable[[], Coroutine[Any, Any, T]], holds: Callable[[T], bool]) -> T:
        """Look whenever something is heard, until it holds; the last look."""
        while True:
            self.heard.clear()
            found = await look()
            if holds(found):
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.heard.wait(), 1.0)


@contextlib.asynccontextmanager
async def process(request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    path: Path = request.getfixturevalue("tmp_path")
    code = path / "code"
    code.mkdir()
    (code / "work.py").write_text(CODE)
    made: list[ProcessLauncher] = []

    def make(changed: Callable[[Key], None]) -> Launcher:
        made.append(ProcessLauncher(path / "processes", code, changed=changed, say=lambda _: None))
        return made[-1]

    try:
        yield Place(make, image=None)
    finally:
        await made[-1].stop_all(5.0)
        for launcher in made:
            await launcher.close()
        server.stop(settings.current().home_path)


Adapter = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Place]]
ADAPTERS: dict[str, Adapter] = {"process": process}


@pytest.fixture(params=sorted(ADAPTERS))
def on(request: pytest.FixtureRequest) -> Callable[[Callable[[Place], Coroutine[Any, Any, None]]], None]:
    """Runs an async test body over an adapter, within its time."""

    def run(body: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with ADAPTERS[request.param](request) as place, asyncio.timeout(100):
                await body(place)

        asyncio.run(inside())

    return run
