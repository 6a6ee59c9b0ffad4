"""The resources of a home: one JSON file each, a counter of versions, and a bell for everybody who listens.

`cluster` makes it a `ports.Cluster`. Synchronous, and safe between processes: each change is made under one short lock
and put in place by a rename, so a reader never waits and never sees half of it. Listeners are rung through named
pipes, one of each: nothing polls, and unlike a socket's the path may be of any length.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from kapstan import ids
from kapstan.errors import InvalidResource, NotFound, ResourceConflict
from kapstan.ports import Key, Kind, Manifest
from kapstan.resources import KINDS, parse, validate

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character"
)
Stamp = tuple[int, int]
"""What differs between two versions of a file: a change always puts a new file in the old one's place."""


class Objects:
    """See the module.

    Args:
        root: folder, made where there is none.
        clock: Unix seconds.
    """

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self.root = root
        self._clock = clock
        self._bells = root / "bells"
        self._bells.mkdir(mode=0o700, parents=True, exist_ok=True)

    # ------------------------------------------------------------------ reading

    def read(self, key: Key) -> Manifest | None:
        try:
            return json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None

    def keys(self, kind: Kind, namespace: str | None = None) -> Iterator[Key]:
        for key, _ in self.stamps((kind,)):
            if namespace in (None, key.namespace):
                yield key

    def stamps(self, kinds: tuple[Kind, ...]) -> Iterator[tuple[Key, Stamp]]:
        """Every object of these kinds, with what tells whether it has changed."""
        for namespace in sorted(self._folders(self.root / "objects")):
            for kind in kinds:
                with contextlib.suppress(FileNotFoundError), os.scandir(namespace / kind) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if entry.name.endswith(".json"):
                            key = Key(kind, namespace.name, entry.name.removesuffix(".json"))
                            with contextlib.suppress(FileNotFoundError):
                                status = entry.stat()
                                yield key, (status.st_ino, status.st_mtime_ns)

    # ------------------------------------------------------------------ changing

    def create(self, manifest: Manifest) -> Manifest:
        """Raises:
        InvalidResource, ResourceConflict: as the port says.
        """
        with self._changing():
            key = self._key(manifest)
            if self.read(key) is not None:
                raise ResourceConflict(f'{key.kind} "{key.name}" already exists in namespace "{key.namespace}"')
            return self._create(key, manifest)

    def apply(self, manifest: Manifest) -> Manifest:
        """Create, or make the spec what the manifest says; labels and annotations are laid over the stored ones."""
        with self._changing():
            key = self._key(manifest)
            old = self.read(key)
            wanted = cast("dict[str, Any]", manifest["metadata"])
            if old is None:
                if wanted.get("uid"):
                    raise ResourceConflict(f"{key}: no object with uid {wanted['uid']} is there any more")
                return self._create(key, manifest)
            for field in ("uid", "resourceVersion"):
                if wanted.get(field) not in (None, old["metadata"][field]):
                    raise ResourceConflict(
                        f"{key}: {field} {wanted[field]} is not the stored {old['metadata'][field]}: read it again"
                    )
            spec = dict(manifest.get("spec") or {})
            if key.kind == "TaskWorker" and "replicas" not in spec:
                # Who leaves the number out leaves it to `scale`.
                spec["replicas"] = old["spec"].get("replicas", 1)
            metadata = dict(old["metadata"])
            for field in ("labels", "annotations"):
                if wanted.get(field):
                    metadata[field] = {**(metadata.get(field) or {}), **wanted[field]}
            return self._replace(key, old, {**old, "metadata": metadata, "spec": spec})

    def set_status(self, key: Key, status: Manifest, uid: str, version: str | None) -> Manifest:
        with self._changing():
            old = self._existing(key)
            if old["metadata"]["uid"] != uid:
                raise NotFound(f"{key} with uid {uid} is gone; another object has its name")
            if version is not None and version != old["metadata"]["resourceVersion"]:
                raise ResourceConflict(f"{key} has changed since version {version}")
            return self._replace(key, old, {**old, "status": status})

    def set_scale(self, key: Key, replicas: int) -> Manifest:
        with self._changing():
            old = self._existing(key)
            if key.kind != "TaskWorker":
                raise InvalidResource([("kind", f"a {key.kind} has no replicas")], kind=key.kind, name=key.name)
            return self._replace(key, old, {**old, "spec": {**old["spec"], "replicas": replicas}})

    def delete(self, key: Key, uid: str = "") -> None:
        """Delete the object (with ``uid`` only the one that has it) and everything that it owns."""
        with self._changing():
            found = str(self._existing(key)["metadata"]["uid"])
            if uid not in ("", found):
                raise ResourceConflict(f"{key} is another object by now")
            uid = found
            self._path(key).unlink()
            self._version()
            self._delete_owned(uid)

    def _delete_owned(self, uid: str) -> None:
        for key, _ in list(self.stamps(tuple(KINDS))):
            manifest = self.read(key)
            owners = cast("list[Manifest]", manifest["metadata"].get("ownerReferences") or []) if manifest else []
            if manifest is not None and any(owner.get("uid") == uid for owner in owners):
                self._path(key).unlink()
                self._delete_owned(str(manifest["metadata"]["uid"]))

    def _create(self, key: Key, manifest: Manifest) -> Manifest:
        given = cast("dict[str, Any]", manifest["metadata"])
        kept = {field: given[field] for field in ("labels", "annotations", "ownerReferences") if given.get(field)}
        metadata = {
            "name": key.name,
            "namespace": key.namespace,
            "uid": str(ids.to_uuid(ids.new_id())),
            "generation": 1,
            "creationTimestamp": self._now(),
            **kept,
        }
        made = _completed({**manifest, "metadata": metadata})
        made.pop("status", None)
        validate(parse(made))
        return self._store(key, made)

    def _replace(self, key: Key, old: Manifest, wanted: Manifest) -> Manifest:
        wanted = _completed(wanted)
        if wanted == old:
            return old
        validate(parse(wanted), parse(old))
        if wanted["spec"] != old["spec"]:
            generation = int(old["metadata"].get("generation") or 1) + 1
            wanted = {**wanted, "metadata": {**wanted["metadata"], "generation": generation}}
        return self._store(key, wanted)

    def _store(self, key: Key, manifest: Manifest) -> Manifest:
        stored = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self._version())}}
        write(self._path(key), json.dumps(stored, separators=(",", ":")).encode())
        return stored

    # ------------------------------------------------------------------ names, versions, locks

    def _key(self, manifest: Manifest) -> Key:
        metadata = cast("dict[str, Any]", manifest.get("metadata") or {})
        kind, name = str(manifest.get("kind")), str(metadata.get("name") or "")
        namespace = str(metadata.get("namespace") or "default")
        for field, text in (("metadata.name", name), ("metadata.namespace", namespace)):
            if not _NAME.fullmatch(text):
                raise InvalidResource([(field, f'Invalid value: "{text}": {_NAME_RULE}')], kind=kind, name=name)
        parse(manifest)
        return Key(kind, namespace, name)

    def _existing(self, key: Key) -> Manifest:
        found = self.read(key)
        if found is None:
            raise NotFound(f'no {key.kind} named "{key.name}" in namespace "{key.namespace}"')
        return found

    def _path(self, key: Key) -> Path:
        return self.root / "objects" / key.namespace / key.kind / f"{key.name}.json"

    def _version(self) -> int:
        """The next version. Written before it is used: a crash leaves a gap, never a number twice."""
        path = self.root / "version"
        try:
            version = int(path.read_text()) + 1
        except FileNotFoundError:
            version = 1
        write(path, str(version).encode())
        return version

    def _now(self) -> str:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @staticmethod
    def _folders(path: Path) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from (entry for entry in path.iterdir() if entry.is_dir())

    @contextlib.contextmanager
    def _changing(self) -> Generator[None]:
        """One change at a time; everybody who listens is rung once it is in place."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
        self.ring()

    # ------------------------------------------------------------------ bells

    def ring(self) -> None:
        for path in self._bells.iterdir():
            if path.name.startswith("."):
                continue
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    path.unlink(missing_ok=True)  # its listener is gone
                continue
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # full: it will look anyway
                os.write(descriptor, b"!")
            os.close(descriptor)

    def hang_bell(self) -> tuple[int, Path]:
        """A descriptor that becomes readable when something has changed, and the path to remove afterwards."""
        path = self._bells / ids.new_nonce()
        hidden = path.with_name(f".{path.name}")
        os.mkfifo(hidden, 0o600)
        # Open for both, or reading would end whenever nobody happens to ring.
        descriptor = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(path)
        return descriptor, path


def _completed(manifest: Manifest) -> Manifest:
    """The manifest with the schema's defaults filled in, as the API server stores it."""
    model = parse(manifest)
    full = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = {key: value for key, value in full["metadata"].items() if value not in ({}, [])}
    stored = {**full, "metadata": kept}
    if "status" not in manifest:
        stored.pop("status", None)
    return stored


def write(path: Path, body: bytes) -> None:
    """Put a file in place at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    beside.write_bytes(body)
    beside.replace(path)
