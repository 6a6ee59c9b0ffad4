"""What the loop knows of our resources: the latest manifest of each, and who depends on whom.

Filled by the loop from what its caller hears (kopf, the local change feed) and from the answers to its own writes.
Finished runs are not kept: they are many, and nothing waits for them. It decides nothing.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Collection, Sequence
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
    """Manifests by key; FlowRuns also by Deployment and by run id. No look-up walks over all runs."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Key, Manifest]] = defaultdict(dict)
        self._briefs: dict[Key, RunBrief] = {}
        self._runs: dict[Key, list[RunBrief]] = defaultdict(list)
        self._in_flight: dict[Key, set[Key]] = defaultdict(set)
        self._ended: dict[Key, int] = {}
        self._by_id: dict[RunId, set[Key]] = defaultdict(set)

    def get(self, key: Key) -> Manifest | None:
        return self._objects[key.kind].get(key)

    def known(self) -> list[Key]:
        return [key for kept in self._objects.values() for key in kept]

    def of_kind(self, kind: Kind, namespace: str | None) -> list[Manifest]:
        """Every manifest of a kind, of one namespace or (None) of all."""
        kept = self._objects[kind].items()
        return [manifest for key, manifest in kept if namespace in (None, key.namespace)]

    def brief(self, run: Key) -> RunBrief | None:
        """An unfinished run that is not being deleted."""
        return self._briefs.get(run)

    def runs(self, deployment: Key) -> Sequence[RunBrief]:
        """Unfinished runs of a Deployment, by `RunBrief.order`; not to be kept, it changes with the cache."""
        return self._runs.get(deployment, ())

    def in_flight(self, deployment: Key) -> Collection[Key]:
        """The runs of a Deployment with an attempt that has not ended; not to be kept, it changes with the cache."""
        return self._in_flight.get(deployment, ())

    def runs_of(self, run_id: RunId) -> list[Key]:
        """The objects that ask for this run; more than one where several carry one idempotency key."""
        return sorted(self._by_id.get(run_id, ()))

    def put(self, manifest: Manifest) -> bool:
        """Take a manifest unless a newer one of the same object is there; whether it was news."""
        key = key_of_manifest(manifest)
        kept = self._objects[key.kind]
        before = kept.get(key)
        if before is not None and not _newer(manifest, before):
            return False
        if key.kind == "FlowRun":
            brief = RunBrief.of(manifest)
            if brief.ended:
                return self._take_end(key, manifest)
            self._forget(key)
            self._ended.pop(key, None)
            if not brief.deleting:
                self._note(brief)
        kept[key] = manifest
        return True

    def _take_end(self, key: Key, manifest: Manifest) -> bool:
        """A run has ended: only its version is kept, since a list tells of it again and again."""
        version = _version(manifest)
        known = version is not None and self._ended.get(key) == version
        self.drop(key)
        if version is not None:
            self._ended[key] = version
        return not known

    def drop(self, key: Key) -> None:
        self._ended.pop(key, None)
        self._objects[key.kind].pop(key, None)
        self._forget(key)

    def _note(self, brief: RunBrief) -> None:
        self._briefs[brief.key] = brief
        bisect.insort(self._runs[brief.parent], brief, key=RunBrief.order)
        if brief.in_flight:
            self._in_flight[brief.parent].add(brief.key)
        self._by_id[brief.run_id].add(brief.key)

    def _forget(self, key: Key) -> None:
        brief = self._briefs.pop(key, None)
        if brief is None:
            return
        row = self._runs[brief.parent]
        del row[bisect.bisect_left(row, brief.order(), key=RunBrief.order)]
        if not row:
            del self._runs[brief.parent]
        _discard(self._in_flight, brief.parent, key)
        _discard(self._by_id, brief.run_id, key)


def _discard(index: dict[Any, set[Key]], name: Any, key: Key) -> None:
    if name in index:
        index[name].discard(key)
        if not index[name]:
            del index[name]


def _newer(manifest: Manifest, before: Manifest) -> bool:
    """Versions are compared as numbers, as Kubernetes promises since 1.35 and etcd has always kept."""
    new, old = _version(manifest), _version(before)
    return new is None or old is None or new > old


def _version(manifest: Manifest) -> int | None:
    text = str(cast("dict[str, Any]", manifest["metadata"]).get("resourceVersion") or "")
    return int(text) if text.isdigit() else None
