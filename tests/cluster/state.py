"""What is known of the test cluster between two runs: where its files are, which processes are its own, who uses it.

Everything is in one directory of its own (``KAPSTAN_TEST_STATE``, else ``/tmp/kapstan-test-cluster-<uid>``), with two
lock files beside it. All functions that change the cluster run under ``State.locked``.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.cluster.errors import ClusterUnavailable


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by number *and* start time (clock ticks since boot): a number alone may have been given to another."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Raises ProcessLookupError where there is no such process."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError as gone:
            raise ProcessLookupError(f"no process {pid}") from gone
        return cls(pid, int(stat.rpartition(")")[2].split()[19]))

    def alive(self) -> bool:
        """A process that has ended but was not yet reaped by its parent counts as gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        fields = stat.rpartition(")")[2].split()
        return int(fields[19]) == self.started and fields[0] not in ("Z", "X")

    def send(self, number: signal.Signals) -> None:
        """A signal, to this process and no other. Raises ProcessLookupError where it has ended."""
        descriptor = os.pidfd_open(self.pid)
        try:
            if not self.alive():
                raise ProcessLookupError(f"process {self.pid} has ended")
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

    def kill(self, timeout: float = 20) -> None:
        """SIGKILL it and wait until it has ended. The descriptor is opened before the identity is compared, so the
        signal cannot reach a later process of the same number. Raises ClusterUnavailable where it does not end."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():
                return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], timeout)[0]:
                raise ClusterUnavailable(f"process {self.pid} of the test cluster does not end within {timeout:g} s")
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Record:
    """What ``up`` writes down before each thing that ``down`` must undo."""

    provider: str
    kept: bool  # brought up by a person: stays when the tests end
    ready: bool = False
    boot: str = field(default_factory=lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    processes: tuple[ProcessIdentity, ...] = ()
    link: int = 0  # number of the network link, as the kernel gives them out
    # Kernel settings that the kubelet changes, as they were.
    sysctls: dict[str, str] = field(default_factory=dict[str, str])

    def this_boot(self) -> bool:
        return self.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class State:
    """The directory of the test cluster."""

    root: Path

    @classmethod
    def locate(cls) -> State:
        """Raises ClusterUnavailable where the directory belongs to somebody else."""
        named = os.environ.get("KAPSTAN_TEST_STATE")
        root = Path(named).absolute() if named else Path(f"/tmp/kapstan-test-cluster-{os.getuid()}")
        if root.exists() and root.stat().st_uid != os.getuid():
            raise ClusterUnavailable(f"{root} belongs to another user; set KAPSTAN_TEST_STATE to a path of your own")
        return cls(root)

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    def create(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the directory. Only after the processes are gone: they have mounts in it, in a namespace of theirs."""
        if self.root.exists():
            shutil.rmtree(self.root)

    def record(self) -> Record | None:
        try:
            found = json.loads((self.root / "record.json").read_text())
        except FileNotFoundError:
            return None
        found["processes"] = tuple(ProcessIdentity(**one) for one in found["processes"])
        return Record(**found)

    def write(self, record: Record) -> None:
        self.create()
        temporary = self.root / "record.json.new"
        temporary.write_text(json.dumps(asdict(record)))
        temporary.replace(self.root / "record.json")

    def keep(self) -> None:
        """From now on the cluster stays when the tests end."""
        self.update(kept=True)

    def update(self, **changes: Any) -> None:
        """Change fields of the record that is there."""
        record = self.record()
        assert record is not None
        self.write(replace(record, **changes))

    @contextmanager
    def locked(self, note: Callable[[str], None]) -> Generator[None]:
        """Only one run at a time brings the cluster up or down. The lock ends with the process, however it ends."""
        path = Path(f"{self.root}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, note)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def join(self) -> int:
        """Count this process as a user of the cluster until the descriptor is closed. Under ``locked`` only."""
        descriptor = os.open(f"{self.root}.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def in_use(self) -> bool:
        """True while a living process counts as a user. Under ``locked`` only."""
        path = Path(f"{self.root}.users")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)


def _acquire(path: Path, note: Callable[[str], None]) -> int:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                note("another run is bringing the cluster up or down; waiting for it")
                told = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The holder before us removes the file; then what we hold is a file that nobody else will ever open.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
