"""What the watches have shown so far: slim copies of Jobs, pods and the rest, so that observing costs no request.

Filled by one paged LIST of each kind before the first reconcile, kept up to date by the informers of `controllers`,
read by the adapters beside it. An answer to a write of ours goes in at once (`put`), so nobody reads the state before
his own write; an older version never replaces a newer one. Used from one event loop; knows no request and no rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kapstan.resources.labels import FLOW_RUN_LABEL, OWNER_UID, TASK_WORKER_LABEL

Json = dict[str, Any]
Name = tuple[str, str]
"""(namespace, name)"""

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"

_KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "annotations",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
)
# A pod's or a Job's spec is what we rendered: its node, its size and nothing else of it is asked for later.
_KEPT_SPEC = {
    "Pod": ("nodeName",),
    "Job": (),
    "Event": (),
}


def slim(kind: str, manifest: Json) -> Json:
    """The parts of ``manifest`` that somebody reads; our own kinds keep their whole spec and status."""
    metadata = manifest["metadata"]
    slimmed: Json = {"metadata": {name: metadata[name] for name in _KEPT_METADATA if name in metadata}}
    slimmed |= {name: manifest[name] for name in ("apiVersion", "kind", "status") if name in manifest}
    spec = within(manifest, "spec")
    kept = _KEPT_SPEC.get(kind)
    slimmed["spec"] = spec if kept is None else {name: spec[name] for name in kept if name in spec}
    if kind == "Event":
        slimmed |= {name: manifest[name] for name in ("reason", "message", "involvedObject") if name in manifest}
    return slimmed


@dataclass(slots=True)
class Kept:
    """The objects of one kind, by name and, for children, by the name of the resource they belong to."""

    kind: str
    label: str = ""
    """Label by whose value objects are grouped."""
    tombstones: int = 0
    """How many deleted objects are remembered, so that a reader learns how they ended."""
    objects: dict[Name, Json] = field(default_factory=dict[Name, Json])
    groups: dict[Name, set[Name]] = field(default_factory=lambda: defaultdict[Name, set[Name]](set))
    gone: dict[Name, Json] = field(default_factory=dict[Name, Json])

    def put(self, manifest: Json) -> bool:
        """Keep ``manifest`` unless a newer version of the same object is here; whether it is new."""
        name = name_of(manifest)
        present = self.objects.get(name)
        if present and _uid(present) == _uid(manifest) and _version(present) >= _version(manifest):
            return False
        buried = self.gone.get(name)
        if buried and _uid(buried) == _uid(manifest):
            return False
        self.gone.pop(name, None)
        self.objects[name] = slimmed = slim(self.kind, manifest)
        if self.label:
            self.groups[self._group(slimmed)].add(name)
        return True

    def remove(self, manifest: Json) -> None:
        """Forget an object; its last state is remembered where tombstones are kept."""
        name = name_of(manifest)
        present = self.objects.get(name)
        if present and _uid(present) != _uid(manifest):
            return
        last = slim(self.kind, manifest)
        self.objects.pop(name, None)
        group = self._group(last)
        self.groups.get(group, set()).discard(name)
        if not self.groups.get(group):
            self.groups.pop(group, None)
        if self.tombstones:
            self.gone[name] = last
            while len(self.gone) > self.tombstones:
                self.gone.pop(next(iter(self.gone)))

    def replace(self, manifests: Iterable[Json]) -> None:
        """Make these the objects, as a complete list tells them."""
        self.objects.clear()
        self.groups.clear()
        for manifest in manifests:
            self.put(manifest)

    def get(self, namespace: str, name: str) -> Json | None:
        return self.objects.get((namespace, name))

    def of(self, namespace: str, parent: str) -> Iterator[Json]:
        """The objects whose label names ``parent``, in order of their names."""
        return (self.objects[name] for name in sorted(self.groups.get((namespace, parent), ())))

    def gone_of(self, namespace: str, parent: str) -> Iterator[Json]:
        """The last states of deleted objects whose label names ``parent``, the latest first."""
        return (last for last in reversed(self.gone.values()) if self._group(last) == (namespace, parent))

    def _group(self, manifest: Json) -> Name:
        return manifest["metadata"].get("namespace", ""), within(manifest, "metadata", "labels").get(self.label, "")


class Cache:
    """One `Kept` per kind of child."""

    def __init__(self) -> None:
        self.jobs = Kept("Job", FLOW_RUN_LABEL, tombstones=2000)
        self.attempt_pods = Kept("Pod", JOB_NAME_LABEL, tombstones=2000)
        self.worker_pods = Kept("Pod", TASK_WORKER_LABEL)
        self.app_deployments = Kept("AppDeployment", TASK_WORKER_LABEL)
        self.refusals: dict[Name, str] = {}
        """Job -> why its pod could not be created, in the Job controller's words."""

    def put_pod(self, manifest: Json) -> None:
        self.pods_like(manifest).put(manifest)

    def remove_pod(self, manifest: Json) -> None:
        self.pods_like(manifest).remove(manifest)

    def pods_like(self, manifest: Json) -> Kept:
        is_worker = TASK_WORKER_LABEL in within(manifest, "metadata", "labels")
        return self.worker_pods if is_worker else self.attempt_pods


def within(manifest: Json | None, *path: str) -> Json:
    """The object at ``path``, empty where there is none."""
    for name in path:
        manifest = (manifest or {}).get(name)
    return manifest or {}


def items(manifest: Json, name: str) -> list[Json]:
    """The list ``name`` of ``manifest``, empty where there is none."""
    return manifest.get(name) or []


def name_of(manifest: Json) -> Name:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def is_owned(manifest: Json, uid: str) -> bool:
    """Whether the object with this uid is among the owners."""
    return any(owner.get("uid") == uid for owner in items(manifest["metadata"], "ownerReferences"))


def is_for(pod: Json, uid: str) -> bool:
    """Whether the pod was rendered for the FlowRun or TaskWorker with this uid."""
    return within(pod, "metadata", "annotations").get(OWNER_UID) == uid


def _uid(manifest: Json) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Json) -> int:
    text = str(manifest["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0
