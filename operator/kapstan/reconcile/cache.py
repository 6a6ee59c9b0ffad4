"""What the loop has been told of our resources: the latest manifest of each, and who depends on whom.

Filled by the loop from what its caller hears (kopf, the local change feed) and from the answers to its own writes.
Finished runs are not kept: they are many, and nothing waits for them. It decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from kapstan.ids import RunId
from kapstan.ports import Key, Kind, Manifest
from kapstan.reconcile.brief import RunBrief


def key_of_manifest(manifest: Manifest) -> Key:
    """The key of a manifest.

    Raises:
        KeyError: it has no kind or name.
    """
    metadata = cast("dict[str, Any]", manifest["metadata"])
    return Key(manifest["kind"], str(metadata.get("namespace") or "default"), str(metadata["name"]))


class Cache:
    """Manifests by key; FlowRuns also by Deployment and by run id."""

    def __init__(self) -> None:
        self._objects: dict[Key, Manifest] = {}
        self._briefs: dict[Key, RunBrief] = {}
        self._runs: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self._by_id: dict[RunId, Key] = {}

    def get(self, key: Key) -> Manifest | None:
        return self._objects.get(key)

    def keys(self) -> list[Key]:
        return list(self._objects)

    def of_kind(self, kind: Kind, namespace: str | None) -> list[Manifest]:
        """Every manifest of a kind, of one namespace or (None) of all."""
        return [
            manifest
            for key, manifest in self._objects.items()
            if key.kind == kind and namespace in (None, key.namespace)
        ]

    def runs(self, namespace: str, deployment: str) -> list[RunBrief]:
        """Unfinished runs of a Deployment."""
        return [self._briefs[key] for key in self._runs.get((namespace, deployment), ())]

    def run_of(self, run_id: RunId) -> Key | None:
        return self._by_id.get(run_id)

    def put(self, manifest: Manifest) -> bool:
        """Take a manifest unless a newer one of the same object is there; whether it was news."""
        key = key_of_manifest(manifest)
        before = self._objects.get(key)
        if before is not None and not _newer(manifest, before):
            return False
        if key.kind == "FlowRun":
            brief = RunBrief.of(manifest)
            if brief.ended:
                self.drop(key)
                return True
            self._forget(key)
            self._briefs[key] = brief
            self._runs[key.namespace, brief.deployment].add(key)
            self._by_id[brief.run_id] = key
        self._objects[key] = manifest
        return True

    def drop(self, key: Key) -> None:
        self._objects.pop(key, None)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        brief = self._briefs.pop(key, None)
        if brief is None:
            return
        self._by_id.pop(brief.run_id, None)
        siblings = self._runs[key.namespace, brief.deployment]
        siblings.discard(key)
        if not siblings:
            del self._runs[key.namespace, brief.deployment]


def _newer(manifest: Manifest, before: Manifest) -> bool:
    """Versions are compared as numbers, as Kubernetes promises since 1.35 and etcd has always kept."""
    new, old = _version(manifest), _version(before)
    return new is None or old is None or new > old


def _version(manifest: Manifest) -> int | None:
    text = str(cast("dict[str, Any]", manifest["metadata"]).get("resourceVersion") or "")
    return int(text) if text.isdigit() else None
