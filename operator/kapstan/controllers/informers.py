"""Tells the reconcile loop what kopf hears, and fills the caches that it looks into.

kopf is used for its watches only: handlers store and enqueue, nothing else, so nothing is written to any object. kopf
does not say when a kind has been listed completely, nor what vanished while a watch was away; so after each opening of
a watch this module lists once itself and takes away what is gone. A namespace is served when every kind of it was
listed once; before that nothing of it reaches the loop, which would take what it cannot see for gone. `filled` is set
when all namespaces are served but those in which something may not be watched; those follow when it may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import kopf

from kapstan.cluster.kubernetes.cache import Cache, Json, name_of, within
from kapstan.cluster.kubernetes.client import APP_DEPLOYMENTS, EVENTS, JOBS, PODS, Client, Resource
from kapstan.cluster.kubernetes.cluster import RESOURCES
from kapstan.controllers.watches import Stream
from kapstan.errors import KapstanError
from kapstan.ports import Key
from kapstan.reconcile.cache import key_of_manifest
from kapstan.reconcile.loop import Loop
from kapstan.reconcile.reconciler import Child, Reconciler
from kapstan.reconcile.table import TABLE
from kapstan.resources.labels import MANAGED, MANAGED_LABEL

log = logging.getLogger("kapstan.operator")

OURS_LABEL = f"{MANAGED_LABEL}={MANAGED}"


@dataclass(frozen=True, slots=True)
class Source:
    """One kind that is watched, narrowed by the API server itself."""

    resource: Resource
    labels: str = ""
    fields: str = ""


CHILDREN: dict[Child, tuple[Source, ...]] = {
    "Job": (Source(JOBS, labels=OURS_LABEL), Source(EVENTS, fields="involvedObject.kind=Job,reason=FailedCreate")),
    "Pod": (Source(PODS, labels=OURS_LABEL),),
    "AppDeployment": (Source(APP_DEPLOYMENTS, labels=OURS_LABEL),),
}
"""What is watched for each child that a kind may have."""


def sources(table: Sequence[Reconciler]) -> tuple[Source, ...]:
    """What is watched for these kinds: their objects, and what is made for them."""
    ours = [Source(RESOURCES[one.kind], fields=_fields(one)) for one in table]
    wanted = {child for one in table for child in one.children}
    children = [source for child, needed in CHILDREN.items() if child in wanted for source in needed]
    return (*ours, *children)


def _fields(reconciler: Reconciler) -> str:
    return ",".join(f"{field}!={value}" for field, values in reconciler.left_out.items() for value in values)


class Informers:
    """The watches of one operator.

    Args:
        namespaces: those that are served; None: all.
        table: the kinds that are reconciled.
    """

    def __init__(
        self,
        client: Client,
        loop: Loop,
        cache: Cache,
        namespaces: Sequence[str] | None,
        table: Sequence[Reconciler] = TABLE,
    ) -> None:
        self._client = client
        self._loop = loop
        self._cache = cache
        self._scopes: tuple[str, ...] = ("",) if namespaces is None else tuple(namespaces)
        self._sources = {(source.resource.group, source.resource.plural): source for source in sources(table)}
        self._owners = tuple((one.child_label, one.kind) for one in table if one.child_label)
        self._listed: set[Stream] = set()
        self._listing: dict[Stream, asyncio.Task[None]] = {}
        self._denied: set[Stream] = set()
        self._held: dict[str, dict[Key, Json]] = {scope: {} for scope in self._scopes}
        """Our resources in namespaces that are not served yet."""
        self.filled = asyncio.Event()

    @property
    def streams(self) -> list[Stream]:
        return [Stream(group, plural, scope) for group, plural in self._sources for scope in self._scopes]

    def missing(self) -> list[str]:
        """What has not been listed yet."""
        return [f"{stream} is not listed yet" for stream in self.streams if stream not in self._listed]

    def serves(self, namespace: str) -> bool:
        """Whether what is heard of this namespace reaches the loop."""
        return self._scope(namespace) not in self._held

    def _scope(self, namespace: str) -> str:
        return "" if self._scopes == ("",) else namespace

    # ------------------------------------------------------------------ what kopf hears

    def register(self, registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings) -> None:
        """Watch every source; each event is stored and its owner enqueued."""
        for source in self._sources.values():
            resource = source.resource
            triple = (resource.group, resource.version, resource.plural)
            kopf.on.event(*triple, registry=registry, id=resource.plural)(self._handler(source))
            if source.labels:
                settings.watching.label_selectors[triple] = source.labels
            if source.fields:
                settings.watching.field_selectors[triple] = source.fields

    def _handler(self, source: Source) -> Callable[..., Any]:
        async def hear(event: Any, **_: Any) -> None:
            self.hear(source, event["type"], cast("Json", dict(event["object"])))

        return hear

    def hear(self, source: Source, type_: str | None, manifest: Json) -> None:
        """One event: ``DELETED``, or anything else for an object that is there."""
        kind = source.resource.kind
        manifest = {"apiVersion": source.resource.api_version, "kind": kind} | manifest
        if source.resource in RESOURCES.values():
            manifest["metadata"] = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
            held = self._held.get(self._scope(manifest["metadata"].get("namespace", "")))
            if held is not None:
                key = key_of_manifest(manifest)
                held.pop(key, None)
                if type_ != "DELETED":
                    held[key] = manifest
            elif type_ == "DELETED":
                self._loop.deleted(manifest)
            else:
                self._loop.changed(manifest)
            return
        self._store(kind, manifest, gone=type_ == "DELETED")
        owner = self._owner(kind, manifest)
        if owner is not None and self.serves(owner.namespace):
            self._loop.enqueue(owner)

    def _store(self, kind: str, manifest: Json, *, gone: bool) -> None:
        cache = self._cache
        match kind:
            case "Pod":
                (cache.remove_pod if gone else cache.put_pod)(manifest)
            case "Job":
                (cache.jobs.remove if gone else cache.jobs.put)(manifest)
                if gone:
                    cache.refusals.pop(name_of(manifest), None)
            case "Deployment":
                (cache.app_deployments.remove if gone else cache.app_deployments.put)(manifest)
            case _:
                about = within(manifest, "involvedObject")
                name = (str(about.get("namespace")), str(about.get("name")))
                if not gone and name in cache.jobs.objects:
                    cache.refusals[name] = str(manifest.get("message") or "")

    def _owner(self, kind: str, manifest: Json) -> Key | None:
        """The resource that must be looked at."""
        if kind == "Event":
            about = within(manifest, "involvedObject")
            manifest = self._cache.jobs.get(str(about.get("namespace")), str(about.get("name"))) or manifest
        namespace = manifest["metadata"].get("namespace", "")
        labels = within(manifest, "metadata", "labels")
        return next((Key(owner, namespace, labels[label]) for label, owner in self._owners if label in labels), None)

    # ------------------------------------------------------------------ what was there all along

    def watch_opened(self, stream: Stream) -> None:
        """List what this watch shows, once at a time."""
        running = self._listing.get(stream)
        if running is None or running.done():
            self._listing[stream] = asyncio.create_task(self._list(stream), name=f"list {stream}")

    async def _list(self, stream: Stream) -> None:
        source = self._sources[stream.group, stream.plural]
        path = source.resource.path(stream.namespace or None)
        while True:
            try:
                items, version = await self._client.list(path, labels=source.labels, fields=source.fields)
                break
            except KapstanError as error:
                log.warning("%s cannot be listed (%s); it is tried again", stream, error)
                await asyncio.sleep(1)
        for item in items:
            self.hear(source, None, item)
        present = {name_of(item) for item in items}
        for item in self._vanished(source, stream.namespace, present, version):
            self.hear(source, "DELETED", item)
        self._listed.add(stream)
        self._denied.discard(stream)
        self._look_at(stream.namespace)

    def watch_denied(self, stream: Stream) -> None:
        """It may not be watched: its namespace is not waited for."""
        if stream not in self._listed and stream not in self._denied:
            self._denied.add(stream)
            log.error("namespace %r is not served until %s may be watched", stream.namespace, stream)
            self._look_at(stream.namespace)

    def _look_at(self, scope: str) -> None:
        """Serve it if all of it is listed; tell that the caches are filled once nothing is left to wait for."""
        if scope in self._held and all(stream in self._listed for stream in self.streams if stream.namespace == scope):
            for manifest in self._held.pop(scope).values():
                self._loop.changed(manifest)
        waited_for = self._held.keys() - {stream.namespace for stream in self._denied}
        if not waited_for and len(self._held) < len(self._scopes):
            self.filled.set()

    def _vanished(self, source: Source, namespace: str, present: set[tuple[str, str]], version: str) -> list[Json]:
        """What the caches hold and the list, which is not older, does not."""
        kind = source.resource.kind
        if source.resource in RESOURCES.values():
            unserved = self._held.get(namespace, {}).values()
            held = [*self._loop.known(kind, namespace or None), *(one for one in unserved if one["kind"] == kind)]
        else:
            kept = {
                "Job": (self._cache.jobs,),
                "Pod": (self._cache.attempt_pods, self._cache.worker_pods),
                "Deployment": (self._cache.app_deployments,),
            }
            held = [manifest for kept_kind in kept.get(kind, ()) for manifest in kept_kind.objects.values()]
        return [
            manifest
            for manifest in held
            if name_of(manifest) not in present
            and (not namespace or manifest["metadata"].get("namespace") == namespace)
            and int(manifest["metadata"]["resourceVersion"]) <= int(version)
        ]
