"""Flow runs as processes: ``kapstan run`` on the local store or on a real MinIO, stopped at a gate in their code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.servers.minio import minio as minio

from kapstan import backend, ids
from kapstan.ids import RunId
from kapstan.runs.records import Records
from kapstan.settings import Settings

SHAPES = Path(__file__).with_name("shapes.py")
ROOT = Path(__file__).parents[3]
_NOT_HANDED_ON = ("PYTEST", "PYTHONDONTWRITEBYTECODE")


class Attempt:
    """A process of one attempt. ``reached`` waits until the flow stands at its gate and gives the pid that runs it."""

    def __init__(self, process: subprocess.Popen[str], fifo: Path | None) -> None:
        self._process = process
        self._fifo = fifo

    @property
    def pid(self) -> int:
        return self._process.pid

    def reached(self) -> int:
        assert self._fifo is not None
        return int(self._fifo.read_text())

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def terminate(self) -> None:
        self._process.terminate()

    def await_line(self, text: str) -> None:
        """Block until the process has logged a line with ``text``; its test's limit ends the wait."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text in line:
                return
        raise AssertionError(f"it has ended and not said {text!r}")

    def ends(self) -> int:
        """The exit code."""
        self.output, self.errors = self._process.communicate()
        return self._process.returncode


class Runs:
    """Starts attempts and reads what they left. ``bytecode`` is a folder that all processes of a session share: as in
    an image, a module is compiled once."""

    def __init__(self, folder: Path, settings: Settings, bytecode: Path) -> None:
        self._folder = folder
        self._bytecode = bytecode
        self._fifos = 0
        self._processes: list[subprocess.Popen[str]] = []
        self.sink = folder / "sink"
        self.sink.touch()
        self.records = Records(backend.current())
        self.settings = settings

    def start(self, shape: str, run_id: RunId, attempt: int, *, gate: bool = False, parameters: str = "{}") -> Attempt:
        command = ["run", f"{SHAPES}:{shape}", "--run-id", str(ids.to_uuid(run_id)), "--attempt", str(attempt)]
        return self.command([*command, "--parameters", parameters], gate=gate)

    def command(self, arguments: list[str], *, gate: bool = False) -> Attempt:
        return self.python(["-m", "kapstan", *arguments], gate=gate)

    def python(self, arguments: list[str], *, gate: bool = False) -> Attempt:
        fifo = None
        if gate:
            self._fifos += 1
            fifo = self._folder / f"reached-{self._fifos}"
            os.mkfifo(fifo)
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(_NOT_HANDED_ON)},
            "PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT}",
            "PYTHONPYCACHEPREFIX": str(self._bytecode),
            "SINK": str(self.sink),
            "REACHED": str(fifo or ""),
        }
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return Attempt(process, fifo)

    @property
    def effects(self) -> list[str]:
        return self.sink.read_text().splitlines()

    def ends(self, run_id: RunId) -> list[str | None]:
        """How each attempt ended, by the journal."""
        return [None if record.end is None else record.end.outcome for record in self.records.attempts(run_id)]

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture(params=["local", "minio"])
def runs(
    request: pytest.FixtureRequest, tmp_path: Path, bytecode: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runs]:
    """Once with files, once with objects in MinIO."""
    if request.param == "minio":
        server = request.getfixturevalue("minio")
        monkeypatch.setenv("KAPSTAN_S3_ENDPOINT", server.url)
        monkeypatch.setenv("KAPSTAN_S3_BUCKET", BUCKET)
        monkeypatch.setenv("KAPSTAN_S3_ACCESS_KEY", ACCESS_KEY)
        monkeypatch.setenv("KAPSTAN_S3_SECRET_KEY", SECRET_KEY)
        monkeypatch.setenv("KAPSTAN_NAMESPACE", f"t{ids.new_id()[-8:].strip('-_').lower()}")
    backend.use(None)
    started = Runs(tmp_path, backend.current().settings, bytecode)
    yield started
    started.stop()
    backend.use(None)
