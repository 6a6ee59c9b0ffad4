"""A store that fails at a moment that the flow itself chooses, and heals when the flow says that it waits."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.minio import BUCKET, Minio

from kapstan import backend as backends
from kapstan.ids import new_nonce
from kapstan.settings import Settings

READS_TOO = ("EIO", "EACCES", "refused", "missing", "forbidden", "unavailable", "broken", "cut_reply", "drop_reply")
"""Faults in which nothing can be read either."""
LOCAL = ("EIO", "ENOSPC", "EACCES", "EROFS")
S3 = ("refused", "missing", "forbidden", "unavailable", "broken", "cut_reply", "drop_reply")


class Outage:
    """``begin`` it where it shall bite; the first line that says ``waiting`` ends it.

    Attributes:
        lines: what was said meanwhile.
    """

    def __init__(self, name: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.name = name
        self._begin, self._end = begin, end
        self.lasts = False
        self.stays = False
        self.lines: list[str] = []

    def begin(self) -> None:
        self._begin()
        self.lasts = True

    def end(self) -> None:
        if self.lasts:
            self.lasts = False
            self._end()


class _Listener(logging.Handler):
    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "; waiting: " in text:
            self._outage.lines.append(text)
            if not self._outage.stays:
                self._outage.end()


@contextmanager
def _heard(outage: Outage) -> Iterator[Outage]:
    listener, logger = _Listener(outage), logging.getLogger("kapstan")
    logger.addHandler(listener)
    try:
        yield outage
    finally:
        logger.removeHandler(listener)
        outage.end()


@contextmanager
def local_outage(name: str, home: Path, **changed: Any) -> Iterator[Outage]:
    """The system's own calls fail below the store, with the error number of that name."""
    backends.use(Settings(home=str(home), store_deadline_seconds=0.3, **changed))
    root = str(home / "store")
    backends.current().store  # noqa: B018  (made while the disk is well)
    number = getattr(errno, name)

    def failing(real: Any, path_of: Callable[[Any], str], applies: Callable[..., bool]) -> Any:
        def call(subject: Any, *args: Any, **kwargs: Any) -> Any:
            if outage.lasts and path_of(subject).startswith(root) and applies(*args):
                raise OSError(number, os.strerror(number), path_of(subject))
            return real(subject, *args, **kwargs)

        return call

    def of_descriptor(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    reads = name in READS_TOO

    def begin() -> None:
        for target, function, path_of, applies in (
            (os, "write", of_descriptor, lambda *_: True),
            (os, "pread", of_descriptor, lambda *_: reads),
            (os, "open", str, lambda flags=0, *_: reads or cast("int", flags) & (os.O_WRONLY | os.O_CREAT)),
            (Path, "read_bytes", str, lambda *_: reads),
        ):
            healthy.append((target, function, getattr(target, function)))
            setattr(target, function, failing(getattr(target, function), path_of, applies))

    def end() -> None:
        while healthy:
            setattr(*healthy.pop())

    healthy: list[tuple[Any, str, Any]] = []
    outage = Outage(name, begin, end)
    with _heard(outage):
        yield outage
    backends.use(None)


@contextmanager
def s3_outage(name: str, server: Minio, home: Path, **changed: Any) -> Iterator[Outage]:
    """The server is gone, or has lost its bucket; or the way to it breaks."""
    with FaultProxy(server.url, {}).running() as proxy:
        url = server.url if name in ("refused", "missing") else proxy.url
        namespace = f"t{new_nonce()[-8:].strip('-_').lower()}"
        backends.use(server.settings(url, home=str(home), namespace=namespace, store_deadline_seconds=0.3, **changed))
        backends.current().store.put("proof", b"that it answers")
        bucket = server.folder / "data" / BUCKET
        ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "refused": (server.kill, server.start),
            "missing": (lambda: _take_away(bucket), lambda: _put_back(bucket)),
        }
        fault = cast("Fault", name)
        outage = Outage(name, *ways.get(name, (lambda: proxy.faults.update({fault: 1.0}), proxy.faults.clear)))
        with _heard(outage):
            yield outage
        backends.use(None)


def _take_away(bucket: Path) -> None:
    """Rename the folder of a bucket. A write under way makes it anew; what that wrote goes after the rest."""
    there = bucket.with_name("elsewhere")
    bucket.rename(there)
    quiet = 0
    while quiet < 5:
        time.sleep(0.02)
        quiet = quiet + 1 if not bucket.exists() else 0
        _move_into(bucket, there)


def _put_back(bucket: Path) -> None:
    there = bucket.with_name("elsewhere")
    while bucket.exists():
        _move_into(bucket, there)
    there.rename(bucket)


def _move_into(folder: Path, there: Path) -> None:
    for place, _, files in os.walk(folder, topdown=False):
        target = there / Path(place).relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            os.replace(Path(place) / name, target / name)
        with suppress(OSError):  # something was written there meanwhile
            os.rmdir(place)
