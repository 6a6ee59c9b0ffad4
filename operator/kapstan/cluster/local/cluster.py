"""`ports.Cluster` over the files of a home: what `kapstan dev`, `apply` and `get` use where no cluster is asked for.

Several processes may use it at once; each hears of the others' changes. File access takes well under a millisecond and
is done on a thread all the same, because another process may hold the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from kapstan.cluster.local.objects import Objects, Stamp
from kapstan.ports import Key, Kind, Manifest
from kapstan.settings import Settings

Change = tuple[Literal["changed", "deleted"], Manifest]

EVENTS_KEPT = 1000


class LocalCluster:
    """See the port; ``root`` is a folder of this adapter alone."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._objects = Objects(root, clock)
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalCluster:
        return cls(settings.home_path / "cluster")

    async def get(self, key: Key) -> Manifest | None:
        return await asyncio.to_thread(self._objects.read, key)

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        return await asyncio.to_thread(self._list, kind, namespace, labels or {})

    async def each(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Manifest]:
        for manifest in await self.list(kind, namespace):
            yield manifest

    def _list(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> list[Manifest]:
        found = (self._objects.read(key) for key in list(self._objects.keys(kind, namespace)))
        return [manifest for manifest in found if manifest is not None and _carries(manifest, labels)]

    async def create(self, manifest: Manifest) -> Manifest:
        return await asyncio.to_thread(self._objects.create, manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        return await asyncio.to_thread(self._objects.apply, manifest)

    async def set_status(
        self, key: Key, status: Manifest, *, uid: str, resource_version: str | None = None
    ) -> Manifest:
        return await asyncio.to_thread(self._objects.set_status, key, status, uid, resource_version)

    async def set_scale(self, key: Key, replicas: int) -> None:
        await asyncio.to_thread(self._objects.set_scale, key, replicas)

    async def delete(self, key: Key, *, uid: str = "") -> None:
        await asyncio.to_thread(self._objects.delete, key, uid)

    # ------------------------------------------------------------------ events

    async def emit(
        self, key: Key, *, uid: str, severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        event = {
            "time": self._clock(),
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
            "severity": severity,
            "reason": reason,
            "message": message,
        }
        await asyncio.to_thread(self._append_event, json.dumps(event))

    def _append_event(self, line: str) -> None:
        path = self._objects.root / "events.jsonl"
        with path.open("a") as file:
            file.write(line + "\n")
            size = file.tell()
        if size > EVENTS_KEPT * 1000:
            kept = path.read_text().splitlines(keepends=True)[-EVENTS_KEPT:]
            beside = path.with_name(f".events.{os.getpid()}")
            beside.write_text("".join(kept))
            beside.replace(path)

    async def events(self, key: Key) -> list[Manifest]:
        """The Events of a resource, the oldest first: time (Unix seconds), severity, reason, message, uid."""
        return [
            event
            for event in await asyncio.to_thread(self._events)
            if event["name"] == key.name and event["kind"] == key.kind and event["namespace"] == key.namespace
        ]

    def _events(self) -> list[Manifest]:
        try:
            lines = (self._objects.root / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    # ------------------------------------------------------------------ changes

    async def changes(self, kinds: Sequence[Kind]) -> AsyncIterator[Change]:
        """See the port. A listener hears of a change within milliseconds; several changes may come as their last."""
        descriptor, bell = self._objects.hang_bell()
        rung = asyncio.Event()

        def hear() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 65536)
            rung.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, hear)
        known: dict[Key, tuple[Stamp, Manifest]] = {}
        try:
            while True:
                rung.clear()
                for change in await asyncio.to_thread(self._news, tuple(kinds), known):
                    yield change
                await rung.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            bell.unlink(missing_ok=True)

    def _news(self, kinds: tuple[Kind, ...], known: dict[Key, tuple[Stamp, Manifest]]) -> list[Change]:
        """What has changed since the last look; brings ``known`` up to date."""
        news: list[Change] = []
        present: set[Key] = set()
        for key, stamp in self._objects.stamps(kinds):
            present.add(key)
            before = known.get(key)
            if before is not None and before[0] == stamp:
                continue
            manifest = self._objects.read(key)
            if manifest is None:
                present.discard(key)
                continue
            if before is not None and before[1]["metadata"]["uid"] != manifest["metadata"]["uid"]:
                news.append(("deleted", before[1]))
            known[key] = (stamp, manifest)
            news.append(("changed", manifest))
        news.extend(("deleted", known.pop(key)[1]) for key in known.keys() - present)
        return news

    async def close(self) -> None:
        """Nothing is held open."""


def _carries(manifest: Manifest, labels: Mapping[str, str]) -> bool:
    present = cast("Mapping[str, str]", manifest["metadata"].get("labels") or {})
    return all(present.get(name) == value for name, value in labels.items())
