"""FlowRun: one run, attempt after attempt, until it ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from kapstan.errors import NotFound
from kapstan.ports import Key, Manifest
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.deployment.history import History
from kapstan.reconcile.kinds.flow_run.actions import LaunchDelayed, NameTaken
from kapstan.reconcile.kinds.flow_run.decision import launch_delayed, launch_refused, name_taken, reconcile
from kapstan.reconcile.kinds.flow_run.observe import observe
from kapstan.reconcile.kinds.work_pool.actions import LeaveLine
from kapstan.reconcile.kinds.work_pool.belonging import deployment_of, pool_of, served_elsewhere
from kapstan.reconcile.kinds.work_pool.places import Places
from kapstan.reconcile.plan import Acting, Plan, Refused
from kapstan.reconcile.reconciler import Reconciler, Right, Wake
from kapstan.reconcile.world import World
from kapstan.resources.labels import FLOW_RUN_LABEL

SPREAD = 0.5
"""Seconds that a Deployment waits after a change of one of its runs: many that change together are one look."""


@dataclass(slots=True)
class Remains:
    """Runs that were deleted, until their Jobs are removed."""

    runs: dict[Key, RunBrief] = field(default_factory=dict[Key, RunBrief])


class FlowRunReconciler(Reconciler):
    kind = "FlowRun"
    # What cannot go on stays out of the watch, so that a restart costs nothing for it; one that ends leaves as deleted.
    # Of one that failed or crashed it must be heard that a person has it go on.
    left_out = {"status.phase": ("Cancelled", "Completed")}  # noqa: RUF012
    children = frozenset({"Job", "Pod"})
    child_label = FLOW_RUN_LABEL
    rights = (
        Right("batch", ("jobs",), ("create", "delete"), "attempts of flow runs"),
        Right("", ("pods",), ("delete",), "how an attempt ends"),
    )

    def concerns(self, world: World, key: Key, manifest: Manifest) -> bool:
        pool = pool_of(world.cache, deployment_of(key, manifest))
        if world.only is not None:
            return pool == world.only
        return pool is None or not served_elsewhere(world, pool)

    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:
        remains = world.memory(Remains).runs
        if key in remains:
            # Its end was heard of. The answer to a write of ours may have come after that, and be all that is left.
            if world.cache.get(key) is not None and await world.cluster.get(key) is None:
                raise NotFound(f"{key} was deleted while it was looked at")
            del remains[key]  # it has left what is watched, or was made again under the same name
        brief = RunBrief.of(manifest)
        if brief.ended:
            world.memory(History).put(brief)
        observed = await observe(world, manifest, journal=False)
        plan = reconcile(observed, now)
        if plan.needs_journal:
            observed = await observe(world, manifest, journal=True)
            plan = reconcile(observed, now)
        if observed.place != "none" and not plan.uses_place:
            # It neither asks for its place nor uses it.
            return replace(plan, actions=(LeaveLine(key), *plan.actions))
        return plan

    def noticed(self, world: World, key: Key, before: Manifest | None, after: Manifest | None) -> Iterable[Wake]:
        manifest = after or before
        assert manifest is not None
        brief = RunBrief.of(manifest)
        known = RunBrief.of(before) if before is not None else None
        gone = after is None or brief.deleting
        if after is None:
            world.memory(Remains).runs[key] = brief
        elif brief.in_flight or brief.ended:
            # Recorded: from here on the status holds the place.
            world.memory(Places).leave(key)
        if brief.ended and not gone:
            world.memory(History).put(brief)
        elif not gone and known is None:
            world.memory(History).drop(key)
        if known is None or gone or (known.phase, known.cancelled) != (brief.phase, brief.cancelled):
            yield Wake(brief.parent, SPREAD)
        if gone or brief.ended:
            # Another object may ask for the same run.
            yield from (Wake(other) for other in world.cache.runs_of(brief.run_id) if other != key)
        held = known is not None and known.in_flight
        if held != (after is not None and brief.in_flight):
            # A place was taken or given back. Who asks for one wakes the pool himself.
            pool = world.memory(Places).moved.pop(key, None) or pool_of(world.cache, brief.parent)
            if pool is not None:
                yield Wake(pool)

    async def refused(self, world: World, key: Key, error: Refused, now: datetime) -> Plan | None:
        # The attempt stands in the status by now: what becomes of its launch is decided on that.
        manifest = world.cache.get(key) or await world.cluster.get(key)
        if manifest is None:
            return None
        observed = await observe(world, manifest, journal=False)
        if isinstance(error, LaunchDelayed):
            return launch_delayed(observed, str(error), now, category=error.category)
        if isinstance(error, NameTaken):
            return name_taken(observed, str(error), now)
        return launch_refused(observed, str(error), now)

    async def leaving(self, acting: Acting, key: Key, manifest: Manifest) -> None:
        """As if it were gone: a finalizer may hold it for ever. Who deletes with `--cascade=orphan` keeps its Jobs."""
        await LeaveLine(key).perform(acting)
        if "orphan" not in (manifest["metadata"].get("finalizers") or ()):
            await self._remove_attempts(acting, key, RunBrief.of(manifest))

    async def forget(self, acting: Acting, key: Key) -> None:
        """Nobody waits for it, and nothing of it may run on."""
        await LeaveLine(key).perform(acting)
        acting.world.memory(History).drop(key)
        brief = acting.world.memory(Remains).runs.pop(key, None)
        if brief is not None:
            await self._remove_attempts(acting, key, brief)

    async def _remove_attempts(self, acting: Acting, key: Key, brief: RunBrief) -> None:
        for launcher in acting.world.launchers.values():
            for _, job in brief.attempts:
                await launcher.remove(key, brief.uid, job)
