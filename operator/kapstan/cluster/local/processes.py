"""`ports.Launcher` with processes of this machine: what a work pool of type process means, and what `kapstan dev` uses.

Each process has a folder under the home (`process`) and a small parent of its own (`waiter`), so it is found again,
with its exit code, after the launcher was killed. The launcher rings ``changed`` when something started or ended; it is
no one's parent and holds no lock. Images are ignored: code comes from a directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kapstan import ids
from kapstan.cluster.local.bells import Bells
from kapstan.cluster.local.objects import write
from kapstan.cluster.local.process import Process
from kapstan.errors import ForeignObject, InvalidResource
from kapstan.ports import (
    AttemptObservation,
    JobRequest,
    Key,
    Kind,
    WorkerMember,
    WorkerObservation,
    WorkersRequest,
)
from kapstan.ports.launch import FlowRunLaunch, WorkerLaunch
from kapstan.resources import Deployment, TaskWorker

GRACE = 30.0
"""Seconds that a process gets which is removed while it runs."""
STARTING = 5.0
"""Seconds after which a process that did not begin is taken for never started."""
SETTLED = 10.0
"""A member that lived so long has started well; one that did not is started again later and later."""
_SHORTEST, _LONGEST = 0.5, 30.0


class ProcessLauncher:
    """See the port.

    Args:
        root: folder of this launcher alone.
        directory: where code comes from unless a resource names another directory; relative ones start here.
        changed: called with the resource whose processes started or ended, on the event loop's thread.
        say: called with lines that a person should read, once each.
        environ: environment of the processes.
    """

    def __init__(
        self,
        root: Path,
        directory: Path,
        *,
        changed: Callable[[Key], None],
        say: Callable[[str], None] = print,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._directory = directory.resolve()
        self._changed = changed
        self._say = say
        self._environ = dict(os.environ if environ is None else environ)
        self._clock = clock
        self._said = False
        self._bells = Bells(clock, changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: dict[Key, int] = {}

    @property
    def flavour(self) -> Literal["job", "process"]:
        return "process"

    async def open(self) -> None:
        """Find what an earlier launcher of this folder left running."""
        kinds: tuple[Kind, ...] = ("FlowRun", "TaskWorker")
        for kind in kinds:
            for path in sorted(self._root.glob(f"{kind}/*/*/*/request")):
                process = Process(path.parent)
                if not process.ended:
                    self._bells.hang(process, Key(kind, path.parts[-4], path.parts[-3]))

    async def close(self) -> None:
        """Stop listening; processes live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._bells.close()

    async def stop_all(self, grace: float) -> None:
        """End every process of this folder: SIGTERM, and SIGKILL for what still lives after ``grace`` seconds."""
        living = [process for process in self._processes() if not process.ended]
        for process in living:
            process.stop(self._clock() + grace)
        async with asyncio.TaskGroup() as group:
            for process in living:
                group.create_task(self._bells.see_off(process))

    def _processes(self) -> list[Process]:
        return [Process(path.parent) for path in sorted(self._root.glob("*/*/*/*/request"))]

    # ------------------------------------------------------------------ attempts

    async def start(self, request: JobRequest) -> None:
        process = self._attempt(request.run, request.job)
        before = process.request
        if before is not None and before["uid"] != request.uid:
            if not process.ended:
                raise ForeignObject(f"process {request.job} of a FlowRun that was deleted has not ended yet")
            process.forget()
        deployment = Deployment.from_dict(request.deployment)
        flow = deployment.spec.flow
        cwd = self._code("spec.flow.directory", flow.directory, "Deployment", deployment.metadata.name)
        self._ignore_image(flow.image)
        launch = FlowRunLaunch.of(request, flow.entrypoint, deployment.metadata.name)
        await self._execute(process, {"uid": request.uid, "number": request.attempt}, launch, cwd)
        self._bells.hang(process, request.run)

    async def stop(self, run: Key, uid: str, job: str, *, grace: float) -> None:
        process = self._attempt(run, job)
        if (process.request or {}).get("uid") == uid:
            self._stop(process, run, grace)

    async def remove(self, run: Key, uid: str, job: str) -> None:
        process = self._attempt(run, job)
        if (process.request or {}).get("uid") != uid:
            return
        if process.ended or (process.pid is None and not process.alive):
            process.forget()
            return
        self._stop(process, run, GRACE)
        self._later(self._forget_after(process))

    async def observe_attempts(self, run: Key, uid: str, jobs: Sequence[tuple[int, str]]) -> list[AttemptObservation]:
        return [self._observe(number, job, self._attempt(run, job), uid) for number, job in jobs]

    def _observe(self, number: int, job: str, process: Process, uid: str) -> AttemptObservation:
        request = process.request
        if request is None or request["uid"] != uid or self._never_began(process, request):
            return AttemptObservation(number, job, exists=False, ended=True)
        ended, end, pid = process.ended, process.exit, process.pid
        code = end[0] if end else None
        return AttemptObservation(
            number,
            job,
            exists=True,
            stopping=process.stopping is not None,
            pod=f"pid-{pid}" if pid is not None else None,
            running=pid is not None and not ended,
            ended=ended,
            exit_code=code,
            reason="" if code is None or code == 0 else "Killed" if code < 0 else "Error",
            message=f"log: {process.log}" if ended and code != 0 else "",
            started_at=_text(process.started_at),
            finished_at=_text(end[1]) if end else None,
            created_at=_text(float(request["at"])),
        )

    def _never_began(self, process: Process, request: Mapping[str, Any]) -> bool:
        """The launcher was killed between its note and the start of the waiter."""
        old = self._clock() - float(request["at"]) > STARTING
        return old and process.pid is None and process.exit is None and not process.alive

    def _attempt(self, run: Key, job: str) -> Process:
        return Process(self._root / "FlowRun" / run.namespace / run.name / job)

    # ------------------------------------------------------------------ members of TaskWorkers

    async def ensure_workers(self, request: WorkersRequest) -> None:
        worker = TaskWorker.from_dict(request.worker)
        key = Key("TaskWorker", worker.metadata.namespace, worker.metadata.name)
        digest = _digest(worker)
        write(self._worker(key) / "wanted", json.dumps({"replicas": request.replicas, "digest": digest}).encode())
        kept: list[Process] = []
        for process in self._members(key):
            if process.ended:
                self._bury(key, process)
            elif process.stopping is None:
                if (process.request or {}).get("digest") == digest:
                    kept.append(process)
                else:  # other code or other tasks: a new one takes its place
                    self._stop(process, key, worker.spec.drain.timeout_seconds)
        surplus = sorted(kept, key=lambda process: (_cost(process), -float((process.request or {})["at"])))
        for process in surplus[: max(0, len(kept) - request.replicas)]:
            self._stop(process, key, worker.spec.drain.timeout_seconds)
        if len(kept) < request.replicas and self._may_start(key):
            self._ignore_image(worker.spec.image)
            for _ in range(request.replicas - len(kept)):
                await self._start_member(key, worker, digest)

    async def _start_member(self, key: Key, worker: TaskWorker, digest: str) -> None:
        name = f"{key.name}-{ids.new_nonce()[:8].lower().replace('_', '0').replace('-', '1')}"
        process = Process(self._worker(key) / name)
        cwd = self._code("spec.directory", worker.spec.directory, "TaskWorker", key.name)
        ready = process.folder / "ready"
        launch = WorkerLaunch(
            key.name,
            key.namespace,
            tuple(worker.spec.tasks),
            worker.spec.concurrency,
            worker.spec.drain.timeout_seconds,
            ready_file=str(ready),
            session=name,
            queues=tuple(worker.spec.queues),
        )
        await self._execute(process, {"digest": digest}, launch, cwd)
        self._bells.hang(process, key, ready)

    def _may_start(self, key: Key) -> bool:
        """Whether the last members did not end so soon that the next one should wait."""
        failures = self._failures.get(key, 0)
        if failures == 0:
            return True
        marker = self._worker(key) / "failed"
        wait = min(_SHORTEST * 2 ** min(failures - 1, 10), _LONGEST)
        left = marker.stat().st_mtime + wait - time.time() if marker.exists() else 0.0
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._changed, key)
        return left <= 0

    def _bury(self, key: Key, process: Process) -> None:
        """Take account of a member that ended: one that ended by itself and did not live long counts as a failure."""
        lived = (process.exit[1] if process.exit else self._clock()) - (process.started_at or self._clock())
        if process.stopping is None and lived < SETTLED:
            self._failures[key] = self._failures.get(key, 0) + 1
            reason = (
                f"{process.folder.name} ended with {process.exit[0] if process.exit else '?'}: {process.last_line()}"
            )
            write(self._worker(key) / "failed", reason.encode())
        elif lived >= SETTLED:
            self._failures.pop(key, None)
            (self._worker(key) / "failed").unlink(missing_ok=True)
        process.forget()

    async def remove_workers(self, worker: Key) -> None:
        for process in self._members(worker):
            self._stop(process, worker, GRACE)
            self._later(self._forget_after(process))
        (self._worker(worker) / "wanted").unlink(missing_ok=True)

    async def set_deletion_cost(self, worker: Key, member: str, cost: int) -> None:
        process = Process(self._worker(worker) / member)
        if process.request is not None:
            write(process.folder / "cost", str(cost).encode())

    async def observe_workers(self, worker: Key, uid: str) -> WorkerObservation:  # noqa: ARG002  (the port's)
        members = [self._member(process) for process in self._members(worker)]
        failed = self._worker(worker) / "failed"
        if failed.exists() and not any(member.ready for member in members):
            last = WorkerMember(worker.name, "-", ready=False, ending=True, message=failed.read_text())
            members.append(last)
        try:
            wanted = json.loads((self._worker(worker) / "wanted").read_bytes())
        except FileNotFoundError:
            wanted = {"replicas": 0, "digest": ""}
        return WorkerObservation(
            int(wanted["replicas"]), tuple(members), f"pid of {worker.name}", str(wanted["digest"])
        )

    def _member(self, process: Process) -> WorkerMember:
        ended = process.ended
        return WorkerMember(
            name=process.folder.name,
            session_prefix=process.folder.name,
            ready=not ended and (process.folder / "ready").exists(),
            ending=ended or process.stopping is not None,
            deletion_cost=_cost(process),
            ended=ended,
        )

    def _members(self, worker: Key) -> list[Process]:
        found = [Process(path.parent) for path in self._worker(worker).glob("*/request")]
        return sorted(found, key=lambda process: float((process.request or {"at": 0.0})["at"]))

    def _worker(self, worker: Key) -> Path:
        return self._root / "TaskWorker" / worker.namespace / worker.name

    # ------------------------------------------------------------------ of both

    def _stop(self, process: Process, key: Key, grace: float) -> None:
        process.stop(self._clock() + grace)
        self._bells.hang(process, key)

    async def _forget_after(self, process: Process) -> None:
        await self._bells.see_off(process)
        process.forget()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _code(self, field: str, directory: str | None, kind: str, name: str) -> str:
        path = self._directory / directory if directory else self._directory
        if not path.is_dir():
            raise InvalidResource(
                [(field, f"{path} is no directory: name the one with the code")], kind=kind, name=name
            )
        return str(path)

    def _ignore_image(self, image: str | None) -> None:
        if image is not None and not self._said:
            self._said = True
            self._say(f"Images are ignored on this machine: code comes from {self._directory}")

    async def _execute(
        self, process: Process, note: dict[str, Any], launch: FlowRunLaunch | WorkerLaunch, cwd: str
    ) -> None:
        command = [sys.executable, "-m", "kapstan", *launch.command()]
        environ = self._environ | {"PYTHONUNBUFFERED": "1"} | launch.environ()
        await asyncio.to_thread(process.start, note | {"at": self._clock()}, command, cwd=cwd, environ=environ)


def _cost(process: Process) -> int:
    try:
        return int((process.folder / "cost").read_text())
    except FileNotFoundError:
        return 0


def _digest(worker: TaskWorker) -> str:
    spec = worker.spec
    served = [spec.directory, spec.tasks, spec.concurrency, spec.drain.timeout_seconds, *spec.queues]
    return hashlib.sha256(json.dumps(served).encode()).hexdigest()[:16]


def _text(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
