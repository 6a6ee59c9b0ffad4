"""Operations on FlowRun objects (``runs.objects``): what is asked stands in the spec, over both adapters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kapstan import ids
from kapstan.errors import NotPossible, ResourceConflict
from kapstan.ports import Cluster, Key, Manifest
from kapstan.resources import API_VERSION
from kapstan.runs import objects

On = Callable[[Callable[[Cluster], Coroutine[Any, Any, None]]], None]
RUN = ids.new_id()


async def made(cluster: Cluster, phase: str = "", name: str = "etl", **spec: Any) -> Manifest:
    manifest = await cluster.create(
        {
            "apiVersion": API_VERSION,
            "kind": "FlowRun",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"deploymentRef": {"name": "nightly"}, "parameters": {"x": 1}, **spec},
        }
    )
    if phase:
        status = {"phase": phase, "runId": str(ids.to_uuid(RUN)), "name": "nimble-falcon", "message": "why"}
        manifest = await cluster.set_status(key(name), status, uid=manifest["metadata"]["uid"])
    return manifest


def key(name: str = "etl") -> Key:
    return Key("FlowRun", "default", name)


async def spec_of(cluster: Cluster) -> dict[str, Any]:
    manifest = await cluster.get(key())
    assert manifest is not None
    return manifest["spec"]


def test_a_run_is_found_by_its_objects_name_its_id_and_its_own_name(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await made(cluster, name="other")
        manifest = await made(cluster, "Running")
        for text in ("etl", RUN, str(ids.to_uuid(RUN)), "nimble-falcon"):
            found = await objects.find(cluster, "default", text)
            assert found is not None
            assert found["metadata"]["uid"] == manifest["metadata"]["uid"]
        for text in ("nobody", "../../x", "", "UPPER", str(ids.to_uuid(ids.new_id()))):
            assert await objects.find(cluster, "default", text) is None
        assert await objects.find(cluster, "elsewhere", "etl") is None

    on(body)


def test_a_cancel_is_asked_of_the_operator_and_changes_nothing_else(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        manifest = await made(cluster, "Running")
        before = await spec_of(cluster)
        assert await objects.cancel(cluster, manifest, 0.0) == "Cancelling"
        assert await spec_of(cluster) == {**before, "cancel": True}
        assert await objects.cancel(cluster, manifest, 0.0) == "Cancelling"

    on(body)


@pytest.mark.parametrize("phase", ["Completed", "Failed", "Crashed", "Cancelled"])
def test_what_has_ended_is_not_cancelled(on: On, phase: str) -> None:
    async def body(cluster: Cluster) -> None:
        manifest = await made(cluster, phase)
        with pytest.raises(NotPossible, match=f"FlowRun etl has ended: {phase}"):
            await objects.cancel(cluster, manifest, 0.0)
        assert not (await spec_of(cluster)).get("cancel")

    on(body)


def test_a_failed_run_goes_on_once_however_often_it_is_asked_at_the_same_time(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        manifest = await made(cluster, "Failed")
        await objects.resume(cluster, manifest)
        await objects.resume(cluster, manifest)
        assert (await spec_of(cluster))["resume"] == 1

    on(body)


def test_a_parked_run_goes_on_if_it_is_not_suspended_by_hand_too(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await objects.resume(cluster, await made(cluster, "Suspended"))
        assert (await spec_of(cluster))["resume"] == 1

    on(body)


def test_a_run_that_was_suspended_by_hand_goes_on(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await objects.resume(cluster, await made(cluster, "Suspended", suspend=True))
        spec = await spec_of(cluster)
        assert (spec["suspend"], spec.get("resume", 0)) == (False, 0)

    on(body)


@pytest.mark.parametrize(
    ("phase", "says"),
    [("Completed", "is Completed already"), ("Cancelled", "cannot be taken back"), ("Running", "is Running: it has")],
)
def test_what_cannot_go_on_says_why(on: On, phase: str, says: str) -> None:
    async def body(cluster: Cluster) -> None:
        with pytest.raises(NotPossible, match=says):
            await objects.resume(cluster, await made(cluster, phase))

    on(body)


def test_only_what_has_ended_is_deleted(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        running = await made(cluster, "Running")
        with pytest.raises(NotPossible, match="is Running: cancel it before you delete it"):
            await objects.delete(cluster, running)
        await objects.delete(cluster, await made(cluster, "Failed", name="old"))
        assert await cluster.get(key("old")) is None

    on(body)


def test_another_object_of_that_name_is_left_alone(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        old = await made(cluster, "Running")
        await cluster.delete(key())
        await made(cluster)
        with pytest.raises(ResourceConflict):
            await objects.cancel(cluster, old, 0.0)
        assert not (await spec_of(cluster)).get("cancel")

    on(body)


def test_a_run_that_waits_is_shown_with_the_reason(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await made(cluster, "Scheduled")
        await made(cluster, name="fresh")
        shown = {run.name: run for run in await objects.views(cluster, "default")}
        assert (shown["nimble-falcon"].state, shown["nimble-falcon"].why) == ("Scheduled", "why")
        assert shown["nimble-falcon"].id == str(ids.to_uuid(RUN))
        assert (shown["fresh"].state, shown["fresh"].deployment) == ("Scheduled", "nightly")
        assert "the operator has not looked" in shown["fresh"].why

    on(body)
