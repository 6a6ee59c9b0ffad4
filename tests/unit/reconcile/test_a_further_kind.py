"""A kind is a model, a folder and a line of the table: one is added here, and whatever reads the table serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from kapstan.cluster.kubernetes.client import Resource as Collection
from kapstan.cluster.kubernetes.cluster import RESOURCES
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.controllers import rbac
from kapstan.controllers.informers import sources
from kapstan.ports import Key, Manifest
from kapstan.reconcile.loop import Loop
from kapstan.reconcile.plan import Acting, EmitEvent, Plan
from kapstan.reconcile.reconciler import Reconciler, Right, Wake
from kapstan.reconcile.status import changed_status, key_of
from kapstan.reconcile.table import TABLE
from kapstan.reconcile.world import World
from kapstan.resources import API_VERSION, GROUP, KINDS, VERSION, Resource
from kapstan.resources.base import Model, Status


class AlarmSpec(Model, frozen=True):
    pool: str = Field(description="The WorkPool that is watched.")


class AlarmStatus(Status, frozen=True):
    queued: int = Field(default=-1, description="Runs that wait in it.")


class Alarm(Resource, frozen=True):
    kind: Literal["Alarm"] = Field(default="Alarm", description="Alarm.")
    spec: AlarmSpec = Field(description="What is wanted.")
    status: AlarmStatus = Field(default_factory=AlarmStatus, description="What is.")
    plural: ClassVar[str] = "alarms"
    short_names: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[Any, ...]] = ()


@dataclass(frozen=True)
class Ring:
    """An action that only this kind knows."""

    text: str

    async def perform(self, acting: Acting) -> None:
        acting.world.memory(Rung).texts.append(self.text)


class Rung:
    """What this kind remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []


class AlarmReconciler(Reconciler):
    kind = "Alarm"
    left_out = {"status.phase": ("Over",)}  # noqa: RUF012
    rights = (Right(GROUP, ("workpools",), ("patch",), "alarms suspend pools"),)

    def __init__(self) -> None:
        self.forgotten: list[Key] = []

    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:
        alarm = Alarm.from_dict(manifest)
        pool = await world.cluster.get(Key("WorkPool", key.namespace, alarm.spec.pool))
        queued = 0 if pool is None else int(pool.get("status", {}).get("queued", 0))
        status = alarm.status.model_copy(update={"queued": queued})
        told = EmitEvent(key_of(alarm), alarm.metadata.uid or "", "Normal", "Counted", f"{queued} wait")
        return Plan((*changed_status(alarm, status), Ring(f"{queued} at {now:%H:%M}"), told))

    def noticed(self, world: World, key: Key, before: Manifest | None, after: Manifest | None) -> Iterable[Wake]:
        manifest = after or before
        assert manifest is not None
        yield Wake(Key("WorkPool", key.namespace, manifest["spec"]["pool"]))

    async def forget(self, acting: Acting, key: Key) -> None:
        self.forgotten.append(key)


@pytest.fixture
def further(monkeypatch: pytest.MonkeyPatch) -> AlarmReconciler:
    monkeypatch.setitem(KINDS, "Alarm", Alarm)
    monkeypatch.setitem(RESOURCES, "Alarm", Collection(GROUP, VERSION, "alarms", "Alarm"))
    return AlarmReconciler()


KEY = Key("Alarm", "default", "bell")
POOL = Key("WorkPool", "default", "pool")


def manifest(kind: str, name: str, spec: dict[str, Any]) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def test_the_loop_observes_decides_acts_and_wakes_for_it(tmp_path: Path, further: AlarmReconciler) -> None:
    async def body() -> None:
        cluster = LocalCluster(tmp_path, clock=lambda: 1_772_452_800.0)
        unused: Any = None
        table = (*TABLE, further)
        loop = Loop(cluster, {}, None, unused, unused, clock=lambda: 1_772_452_800.0, table=table)
        await cluster.create(manifest("WorkPool", "pool", {}))
        await cluster.create(manifest("Alarm", "bell", {"pool": "pool"}))
        await loop.sync()
        turns: list[Key] = []
        while len(loop.queue):
            key = await loop.queue.take()
            assert key is not None
            turns.append(key)
            await loop.turn(key)
        assert KEY in turns
        stored = await cluster.get(KEY)
        assert stored is not None
        assert stored["status"]["queued"] == 0, "observed and decided"
        assert [event["message"] for event in await cluster.events(KEY)] == ["0 wait"], "acted, once"
        assert loop._world.memory(Rung).texts == ["0 at 12:00"], "its own action, with its own memory"
        await cluster.delete(KEY)
        loop.deleted(stored)
        assert {await loop.queue.take(), await loop.queue.take()} == {KEY, POOL}, "its wake-up is heard"
        await loop.turn(KEY)
        assert further.forgotten == [KEY]
        loop.close()

    asyncio.run(body())


def test_the_operator_watches_it_and_has_the_rights_it_names(further: AlarmReconciler) -> None:
    (source,) = (one for one in sources((*TABLE, further)) if one.resource.kind == "Alarm")
    assert source.fields == "status.phase!=Over"
    rights = rbac.operator((*TABLE, further))
    assert any("alarms" in right.resources and "watch" in right.verbs for right in rights)
    assert any("alarms/status" in right.resources and right.verbs == ("patch",) for right in rights)
    assert further.rights[0] in rights
    assert further.rights[0] not in rbac.operator()
