"""``ports.Cluster`` on an API server: our four kinds, read and written as plain manifests.

The operator, `kapstan apply` and `kapstan get` use it, each under a field manager of its own. It decides nothing:
who calls it knows what to write. Launching is `launcher`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from kapstan.cluster.kubernetes.cache import items, within
from kapstan.cluster.kubernetes.client import JSON_PATCH, Client, Resource
from kapstan.cluster.kubernetes.events import Recorder
from kapstan.errors import ClusterUnavailable, InvalidResource, NotFound, ResourceConflict
from kapstan.ports import Key, Kind, Manifest
from kapstan.resources import KINDS
from kapstan.resources.base import API_VERSION, GROUP, VERSION

FIELD_MANAGER = "kapstan-operator"

RESOURCES: dict[str, Resource] = {kind: Resource(GROUP, VERSION, model.plural, kind) for kind, model in KINDS.items()}

Change = tuple[Literal["changed", "deleted"], Manifest]


class KubernetesCluster:
    """Our resources on the API server that ``client`` talks to.

    Args:
        field_manager: who the API server notes as the owner of what is written.
    """

    def __init__(self, client: Client, *, field_manager: str = FIELD_MANAGER) -> None:
        self.client = client
        self._manager = field_manager
        self._events = Recorder(client, field_manager)

    async def get(self, key: Key) -> Manifest | None:
        if not key.name:  # what a reference that is none names
            return None
        try:
            return await self.client.get(_path(key))
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        found, _ = await self.client.list(RESOURCES[kind].path(namespace), labels=selector)
        # A list names its items' kind once, for all of them.
        return [{"apiVersion": API_VERSION, "kind": kind} | item for item in found]

    async def each(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Manifest]:
        async for page in self.client.pages(RESOURCES[kind].path(namespace)):
            for item in items(page, "items"):
                yield {"apiVersion": API_VERSION, "kind": kind} | item

    async def create(self, manifest: Manifest) -> Manifest:
        resource, namespace = self._place(manifest)
        return await self.client.create(resource.path(namespace), _writable(manifest), field_manager=self._manager)

    async def apply(self, manifest: Manifest) -> Manifest:
        resource, namespace = self._place(manifest)
        path = resource.path(namespace, manifest["metadata"]["name"])
        return await self.client.apply(path, _writable(manifest), field_manager=self._manager)

    async def set_status(
        self, key: Key, status: Manifest, *, uid: str, resource_version: str | None = None
    ) -> Manifest:
        """A JSON patch, because its tests fence: a server-side apply to /status does not look at the uid."""
        patch: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
        if resource_version is not None:
            patch.append({"op": "test", "path": "/metadata/resourceVersion", "value": resource_version})
        patch.append({"op": "add", "path": "/status", "value": status})
        path = _path(key, "status")
        try:
            return await self.client.patch(path, patch, field_manager=self._manager, content_type=JSON_PATCH)
        except InvalidResource:
            # The server does not say that it was a test that failed, nor which one.
            stored = await self.client.get(_path(key))
            if stored["metadata"]["uid"] != uid:
                raise NotFound(f"{key} is another object by now") from None
            if resource_version not in (None, stored["metadata"]["resourceVersion"]):
                raise ResourceConflict(f"{key} has changed since version {resource_version}") from None
            raise

    async def set_scale(self, key: Key, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        await self.client.patch(_path(key, "scale"), body, field_manager=self._manager)

    async def delete(self, key: Key, *, uid: str = "") -> None:
        await self.client.delete(_path(key), uid=uid)

    async def emit(
        self, key: Key, *, uid: str, severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        about = {"apiVersion": API_VERSION, "kind": key.kind, "namespace": key.namespace, "name": key.name, "uid": uid}
        await self._events.record(about, severity, reason, message)

    async def changes(self, kinds: Sequence[Kind]) -> AsyncIterator[Change]:
        """First every object, then each change, until the caller stops reading."""
        changes: asyncio.Queue[Change] = asyncio.Queue(maxsize=1000)
        watchers = [asyncio.create_task(self._follow(kind, changes)) for kind in kinds]
        try:
            while True:
                reading = asyncio.create_task(changes.get())
                await asyncio.wait([reading, *watchers], return_when=asyncio.FIRST_COMPLETED)
                for watcher in watchers:
                    if watcher.done():
                        reading.cancel()
                        watcher.result()
                yield await reading
        finally:
            for watcher in watchers:
                watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*watchers, return_exceptions=True)

    async def close(self) -> None:
        await self.client.close()

    async def _follow(self, kind: Kind, changes: asyncio.Queue[Change]) -> None:
        """List, then watch; list again where the server cannot go on from the last version, and tell what went."""
        known: dict[tuple[str, str], Manifest] = {}
        path = RESOURCES[kind].path(None)
        while True:
            found, version = await self.client.list(path)
            listed = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in found}
            for name in known.keys() - listed.keys():
                await changes.put(("deleted", known[name]))
            for item in listed.values():
                await changes.put(("changed", {"apiVersion": API_VERSION, "kind": kind} | item))
            known = listed
            await self._watch(path, version, known, changes)

    async def _watch(
        self, path: str, version: str, known: dict[tuple[str, str], Manifest], changes: asyncio.Queue[Change]
    ) -> None:
        while True:
            try:
                async for event in self.client.watch(path, version):
                    if event["type"] == "ERROR":
                        return
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "BOOKMARK":
                        continue
                    item: Manifest = event["object"]
                    name = (item["metadata"]["namespace"], item["metadata"]["name"])
                    if event["type"] == "DELETED":
                        known.pop(name, None)
                        await changes.put(("deleted", item))
                    else:
                        known[name] = item
                        await changes.put(("changed", item))
            except ResourceConflict:
                return
            except ClusterUnavailable:
                await asyncio.sleep(0.5)

    def _place(self, manifest: Manifest) -> tuple[Resource, str]:
        """Where ``manifest`` goes.

        Raises:
            InvalidResource: it is not of one of our kinds.
        """
        kind, version = str(manifest.get("kind")), manifest.get("apiVersion")
        if version != API_VERSION or kind not in RESOURCES:
            kinds = ", ".join(RESOURCES)
            name = str(within(manifest, "metadata").get("name", ""))
            problem = f"{version} {kind} is not of Kapstan: its kinds are {kinds} of {API_VERSION}"
            raise InvalidResource([("kind", problem)], kind=kind, name=name)
        return RESOURCES[kind], manifest["metadata"].get("namespace") or self.client.namespace


def _path(key: Key, subresource: str = "") -> str:
    return RESOURCES[key.kind].path(key.namespace, key.name, subresource)


def _writable(manifest: Manifest) -> Manifest:
    """What a writer may say: no status (it has a path of its own) and nothing that the server fills in."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in _FILLED_IN}
    return {name: value for name, value in manifest.items() if name != "status"} | {"metadata": metadata}


_FILLED_IN = frozenset({"managedFields", "creationTimestamp", "generation", "selfLink", "deletionTimestamp"})
