"""``ports.FlowRuns`` in files: leases and summaries of flow runs on a laptop without Redis. Made by ``backend``.

The lease only says early that another attempt is at work; the journal is what makes a late one harmless.
Each holder locks a file of its own for as long as it lives, so that a lease ends with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kapstan.ids import RunId, made_at, new_nonce
from kapstan.ports import IndexedRun, LeaseHolder
from kapstan.settings import Settings
from kapstan.store.files import held, make_folder, refusing

log = logging.getLogger("kapstan.store")
_POLL_SECONDS = 0.2
_UNSETTLED_NS = 1_000_000_000  # changes so close together may leave a folder's time as it was

_held: set[int] = set()


def _let_go() -> None:
    """A lock would live as long as any forked child does: children hold none."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class LocalFlowRuns:
    """Flow runs of one home and namespace; see ``ports.FlowRuns``.

    Args:
        deadline: seconds to wait for a lock.
    """

    def __init__(self, root: Path, *, deadline: float = 60.0) -> None:
        self._summaries = root / "summaries"
        self._leases = root / "leases"
        self._deadline = deadline
        with refusing(root):
            for folder in (self._summaries, self._leases):
                make_folder(folder)

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalFlowRuns:
        root = settings.home_path / "flow-runs" / settings.namespace
        return cls(root, deadline=settings.store_deadline_seconds)

    def lease(self, run_id: RunId, attempt: int, holder: str) -> LocalLease | None:
        path = self._leases / run_id
        with refusing(path), held(self._leases / "lock", self._deadline):
            there = _read(path)
            if there is not None:
                lock = self._leases / there["lock"]
                if there["attempt"] >= attempt and _is_locked(lock):
                    return None
                if not _is_locked(lock):
                    lock.unlink(missing_ok=True)
            name = f"{run_id}.{attempt}.{new_nonce()}.lock"
            descriptor = os.open(self._leases / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held.add(descriptor)
            _write(path, {"attempt": attempt, "holder": holder, "lock": name})
        return LocalLease(path, self._leases / name, descriptor, self._deadline, attempt)

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        path = self._summaries / f"{run_id}.json"
        with refusing(path):
            if made_at(run_id) is None and not path.exists():
                with (self._summaries / "derived").open("a") as file:  # one short write: lines of two stay whole
                    file.write(f"{time.time_ns() // 1_000_000} {run_id}\n")
            _write(path, {**summary, "run_id": run_id})

    def load(self, run_id: RunId) -> dict[str, Any] | None:
        path = self._summaries / f"{run_id}.json"
        with refusing(path):
            return _read(path)

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        return [run.summary for run in self.newest(limit) if run.summary is not None]

    def newest(self, limit: int, before: tuple[int, RunId] | None = None) -> list[IndexedRun]:
        with refusing(self._summaries):
            places = sorted((place for place in self._places() if before is None or place < before), reverse=True)
            return [
                IndexedRun(at, run_id, _read(self._summaries / f"{run_id}.json"))
                for at, run_id in places[: max(0, limit)]
            ]

    def holders(self, run_ids: Sequence[RunId]) -> list[LeaseHolder | None]:
        found: list[LeaseHolder | None] = []
        with refusing(self._leases):
            for run_id in run_ids:
                there = _read(self._leases / run_id)
                live = there is not None and _is_locked(self._leases / there["lock"])
                found.append(None if there is None else LeaseHolder(there["attempt"], there["holder"], live))
        return found

    def ask_cancel(self, run_id: RunId, attempt: int) -> None:
        path = self._leases / f"{run_id}.cancel"
        with refusing(path):
            _write(path, {"attempt": attempt})

    def delete(self, run_id: RunId) -> bool:
        path = self._summaries / f"{run_id}.json"
        with refusing(path):
            there = path.exists()
            path.unlink(missing_ok=True)
            (self._leases / f"{run_id}.cancel").unlink(missing_ok=True)
        return there

    def _places(self) -> Iterator[tuple[int, RunId]]:
        """When each run was first saved: its id tells, or for a derived id the lines that its first save left."""
        derived: dict[RunId, int] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self._summaries / "derived").read_text().splitlines():
                at, _, run_id = line.partition(" ")
                if at.isdigit():
                    derived.setdefault(run_id, int(at))
        for run_id, stamp in self._stamps():
            made = made_at(run_id)
            yield derived.get(run_id, stamp[1] // 1_000_000) if made is None else round(made * 1000), run_id

    def watch(self, changed: Callable[[RunId], None], stop: Callable[[], bool]) -> None:
        """As the port says. This adapter looks at the folder five times a second, which is cheap enough on a laptop;
        where many watch there is Redis."""
        seen = dict(self._stamps())
        folder_seen = 0
        while not stop():
            folder = self._summaries.stat().st_mtime_ns
            if folder != folder_seen or time.time_ns() - folder < _UNSETTLED_NS:
                folder_seen = folder
                for run_id, stamp in self._stamps():
                    if seen.get(run_id) != stamp:
                        seen[run_id] = stamp
                        changed(run_id)
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Nothing is held open; leases end with ``release``."""

    def _stamps(self) -> Iterator[tuple[RunId, tuple[int, int]]]:
        """What differs after each save: a save puts a new file in the place of the old one."""
        with os.scandir(self._summaries) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    status = entry.stat()
                    yield entry.name.removesuffix(".json"), (status.st_ino, status.st_mtime_ns)


class LocalLease:
    """See ``ports.RunLease``. Ends with its process."""

    def __init__(self, path: Path, lock: Path, descriptor: int, deadline: float, attempt: int) -> None:
        self._path = path
        self._lock = lock
        self._descriptor = descriptor
        self._deadline = deadline
        self._releasing = threading.Lock()
        self._attempt = attempt
        self._cancel_asked = False

    @property
    def cancel_asked(self) -> bool:
        return self._cancel_asked

    def renew(self) -> bool:
        with refusing(self._path):
            there = _read(self._path)
            asked = _read(self._path.with_name(f"{self._path.name}.cancel"))
        self._cancel_asked = asked is not None and asked.get("attempt", 0) >= self._attempt
        return self._descriptor >= 0 and there is not None and there["lock"] == self._lock.name

    def release(self) -> None:
        with self._releasing:
            if self._descriptor < 0:
                return
            with refusing(self._path), held(self._path.with_name("lock"), self._deadline):
                there = _read(self._path)
                if there is not None and there["lock"] == self._lock.name:
                    self._path.unlink()
                self._lock.unlink(missing_ok=True)
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        log.warning("%s cannot be read; the journal of its run tells where it stands", path)
        return None
    return cast("dict[str, Any]", found)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Put ``value`` in the place of what is there, whole."""
    aside = path.with_name(f"{path.name}.{new_nonce()}")
    aside.write_text(json.dumps(value))
    aside.replace(path)
