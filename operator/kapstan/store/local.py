"""``ports.Store`` in a directory: the default on a laptop, for every process of one machine. Made by ``backend``.

An object is a file; it appears whole (written aside, then linked or renamed into place) and is changed under a short
lock, where a version is the SHA-256 of the bytes. For one machine only: neither link nor flock is to be trusted on a
network file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from kapstan.errors import StoreRefused
from kapstan.ids import new_nonce
from kapstan.ports import Listed, ListedLog, Stored
from kapstan.settings import Settings
from kapstan.store.files import Guarded, held, make_folder, refusing, sync_folder
from kapstan.store.keys import check_key
from kapstan.store.local_listing import listed_logs, walked
from kapstan.store.local_log import LOG, LocalLog
from kapstan.store.probe import probe

_LEFT_SECONDS = 24 * 3600


class Uploaded(Guarded):
    """See ``ports.ConditionalUpload``."""

    is_there = False


class LocalStore:
    """Objects below ``root``; see ``ports.Store`` for the methods.

    Args:
        fsync: whether a write returns only when it survives a power cut.
        deadline: seconds to wait for a lock that another process holds.
        objects, own: folders below ``root`` for objects, and for files of its own.
    """

    def __init__(
        self, root: Path, *, fsync: bool = False, deadline: float = 60.0, objects: str = "objects", own: str = ""
    ) -> None:
        self._root = root
        self._objects = root / objects
        self._aside = root / own / "aside"
        self._locks = root / own / "locks"
        self._fsync = fsync
        self._deadline = deadline
        self._made = False
        if not own:
            with refusing(root):
                self._make()

    def _make(self) -> None:
        """Make the folders; of a result storage at the first write, since others may only read there."""
        if not self._made:
            for folder in (self._objects, self._aside, self._locks):
                make_folder(folder, fsync=self._fsync)
            self._made = True

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalStore:
        """The store of these settings, below their home."""
        root = settings.home_path / "store" / quote(settings.namespace, safe="")
        return cls(root, fsync=settings.fsync, deadline=settings.store_deadline_seconds)

    @classmethod
    def at(cls, folder: Path, settings: Settings) -> LocalStore:
        """A result storage: its objects stand in ``folder`` itself, under their keys."""
        return cls(folder, fsync=settings.fsync, deadline=settings.store_deadline_seconds, objects="", own=".kapstan")

    def get(self, key: str) -> Stored | None:
        path = self._path(key)
        with refusing(path):
            try:
                body = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        return Stored(body, _version(body))

    def put(self, key: str, body: bytes) -> None:
        path = self._path(key)
        with refusing(path), self._lock(key), self._written(body) as aside:
            self._place(os.replace, aside, path)

    @contextlib.contextmanager
    def upload(self, key: str) -> Generator[Guarded]:
        with self._upload(key, os.replace) as target:
            yield target

    @contextlib.contextmanager
    def upload_if(self, key: str, version: str) -> Generator[Uploaded]:
        def move(aside: Path, path: Path) -> None:
            there = ""
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError), path.open("rb") as file:
                there = hashlib.file_digest(file, "sha256").hexdigest()
            if there != version:
                raise FileExistsError(path)
            os.replace(aside, path)

        with self._upload(key, move if version else os.link) as target:
            yield target

    @contextlib.contextmanager
    def _upload(self, key: str, move: Callable[[Path, Path], None]) -> Generator[Uploaded]:
        path = self._path(key)
        with contextlib.ExitStack() as ends:
            with refusing(path):
                self._make()
                self._drop_left()
                aside, file = ends.enter_context(self._begun())
            target = Uploaded(file, aside)
            yield target
            with refusing(path):
                self._end(file)
                with self._lock(key):
                    target.is_there = self._is_placed(move, aside, path)

    @contextlib.contextmanager
    def download(self, key: str) -> Generator[Guarded | None]:
        path = self._path(key)
        with contextlib.ExitStack() as opened:
            file: BinaryIO | None = None
            with refusing(path), contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                file = opened.enter_context(path.open("rb"))
            yield None if file is None else Guarded(file, path)

    def create(self, key: str, body: bytes) -> bool:
        path = self._path(key)
        with refusing(path), self._written(body) as aside:
            try:
                self._place(os.link, aside, path)  # atomic, and never replaces what is there
            except FileExistsError:
                return path.read_bytes() == body
        return True

    def create_version(self, key: str, body: bytes) -> str | None:
        return _version(body) if self.create(key, body) else None

    def replace(self, key: str, body: bytes, version: str) -> str | None:
        path = self._path(key)
        with refusing(path), self._lock(key), self._written(body) as aside:
            there = self.get(key)
            if there is None or there.version != version:
                return there.version if there is not None and there.body == body else None
            self._place(os.replace, aside, path)
        return _version(body)

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        for key, _ in walked(self._objects, prefix):
            if key > after:
                yield key

    def listed(self, prefix: str) -> Iterator[Listed]:
        for key, path in walked(self._objects, prefix):
            with refusing(path):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
            yield Listed(key, status.st_size, status.st_mtime)

    def logs(self, prefix: str) -> Iterator[ListedLog]:
        return listed_logs(self._root / "logs", prefix)

    def now(self) -> float:
        with refusing(self._aside), self._written(b"") as aside:
            return aside.stat().st_mtime

    def delete(self, keys: Sequence[str]) -> None:
        for key, reason in self.delete_each(keys).items():
            raise StoreRefused(f"the local store cannot delete {self._path(key)}: {reason}")

    def delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        for key in keys:
            path = self._path(key)
            try:
                with self._lock(key):
                    path.unlink(missing_ok=True)
            except OSError as error:
                refused[key] = error.strerror or str(error)
        return refused

    def probe(self) -> None:
        probe(self)

    def log(self, name: str) -> LocalLog:
        *folders, last = (quote(part, safe="") for part in check_key(name).split("/"))
        path = self._root.joinpath("logs", *folders, f"{last}{LOG}")
        return LocalLog(path, fsync=self._fsync, deadline=self._deadline)

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> Path:
        return self._objects.joinpath(*(quote(part, safe="") for part in check_key(key).split("/")))

    @contextlib.contextmanager
    def _written(self, body: bytes) -> Generator[Path]:
        """A file of our own with ``body`` in it; gone afterwards, unless it was renamed into place."""
        with self._begun() as (aside, file):
            file.write(body)
            self._end(file)
            yield aside

    @contextlib.contextmanager
    def _begun(self) -> Generator[tuple[Path, BinaryIO]]:
        self._make()
        aside = self._aside / new_nonce()
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield aside, file
        finally:
            aside.unlink(missing_ok=True)

    def _drop_left(self) -> None:
        """Remove what processes that were killed long ago had not finished; a file that is written is young."""
        oldest = time.time() - _LEFT_SECONDS
        for left in self._aside.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < oldest:
                    left.unlink()

    def _end(self, file: BinaryIO) -> None:
        """All that was written is in the file, and on the disk where that is asked for."""
        file.flush()
        if self._fsync:
            os.fsync(file.fileno())

    def _place(self, move: Callable[[Path, Path], None], aside: Path, path: Path) -> None:
        try:
            move(aside, path)
        except FileNotFoundError:
            make_folder(path.parent, fsync=self._fsync)
            move(aside, path)
        except (NotADirectoryError, IsADirectoryError):
            raise StoreRefused(f"{path} cannot be written: a key may not be the folder of another one") from None
        if self._fsync:
            sync_folder(path.parent)

    def _is_placed(self, move: Callable[[Path, Path], None], aside: Path, path: Path) -> bool:
        try:
            self._place(move, aside, path)
        except FileExistsError:
            return False
        return True

    def _lock(self, key: str) -> contextlib.AbstractContextManager[int]:
        self._make()
        name = hashlib.sha256(key.encode()).hexdigest()[:2]  # 256 locks, shared by all keys
        return held(self._locks / name, self._deadline)


def _version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
