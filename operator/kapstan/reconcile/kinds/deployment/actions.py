"""What only a Deployment does: make runs, ask for their cancellation, forget old ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kapstan.errors import ClusterRefused, InvalidResource, NotFound, ResourceConflict
from kapstan.ports import Key, Manifest
from kapstan.reconcile.cache import key_of_manifest
from kapstan.reconcile.kinds.deployment.history import History
from kapstan.reconcile.manifests import within
from kapstan.reconcile.plan import Acting, Refused


class RunRefused(Refused):
    """A run cannot be created: a quota, rights, an admission rule."""


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Create a FlowRun; one of that name being there already is what was wanted."""

    manifest: Manifest

    async def perform(self, acting: Acting) -> None:
        try:
            stored = await acting.world.cluster.create(self.manifest)
        except ResourceConflict:
            return
        except (ClusterRefused, InvalidResource) as error:
            name = self.manifest["metadata"]["name"]
            raise RunRefused(f"FlowRun {name} cannot be created: {error}") from error
        acting.wrote(stored)
        acting.enqueue(key_of_manifest(stored))


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Ask for the cancellation of a run."""

    run: Key

    async def perform(self, acting: Acting) -> None:
        manifest = await acting.world.cluster.get(self.run)
        if manifest is None:
            return
        # With its uid: an apply creates what is not there, and would bring back a run that was deleted meanwhile.
        metadata = {name: manifest["metadata"][name] for name in ("name", "namespace", "uid")}
        wanted = {**manifest, "metadata": metadata, "spec": {**within(manifest, "spec"), "cancel": True}}
        wanted.pop("status", None)
        with contextlib.suppress(ResourceConflict):
            acting.wrote(await acting.world.cluster.apply(wanted))
        acting.enqueue(self.run)


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """Delete a finished FlowRun beyond the history limits, with what its attempts left."""

    run: Key
    uid: str
    attempts: tuple[tuple[int, str], ...] = ()

    async def perform(self, acting: Acting) -> None:
        for _, job in self.attempts:
            await acting.world.launcher("").remove(self.run, self.uid, job)
        with contextlib.suppress(NotFound, ResourceConflict):  # gone, and another run may have its name
            await acting.world.cluster.delete(self.run, uid=self.uid)
        acting.world.memory(History).drop(self.run)
