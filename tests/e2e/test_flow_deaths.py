"""Flows in pods that die in the middle, in every way that a cluster knows: what has finished is never done again.

The sink counts effects, and holds the answer that keeps a flow where the test wants it. The journal tells who wrote
what; watches tell what came first.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Installed
from tests.e2e.sink import Sink
from tests.e2e.watched import Told, Watched, watching

from kapstan import ids
from kapstan.backend import Backend
from kapstan.journal import AttemptEnd, Opening, Record, TaskOutcome, log_name
from kapstan.journal.history import decode

POOLS: dict[str, dict[str, Any]] = {
    "deaths": {},
    "single-place": {"concurrency": {"maxInFlight": 1}},
    "small-memory": {
        "podTemplate": {"spec": {"containers": [{"name": "flow", "resources": {"limits": {"memory": "192Mi"}}}]}}
    },
}


@pytest.fixture(scope="module", autouse=True)
def deployments(installed: Installed) -> None:
    for name, spec in POOLS.items():
        installed.apply("WorkPool", name, spec)
    for flow in ("loop", "gathered", "caught", "one"):
        _deploy(installed, flow, flow, "deaths")
    _deploy(installed, "single", "loop", "single-place")
    _deploy(installed, "hungry", "hungry", "small-memory")


def _deploy(installed: Installed, name: str, flow: str, pool: str, **spec: Any) -> None:
    code = {"entrypoint": f"deaths.py:{flow}", "image": installed.image}
    installed.apply("Deployment", name, {"flow": code, "workPoolRef": {"name": pool}, **spec})


@dataclass(frozen=True)
class World:
    """What a test acts on, and what it sees: watches since before anything happened."""

    installed: Installed
    sink: Sink
    runs: Watched
    jobs: Watched
    pods: Watched
    pools: Watched

    def start(self, deployment: str, **parameters: Any) -> str:
        """The name of a new run, which is its parameter ``name`` as well."""
        name = f"{deployment}-{secrets.token_hex(3)}"
        self.installed.run(name, deployment, parameters={"sink": self.sink.url, "name": name, **parameters})
        return name

    def hold(self, deployment: str, *places: str) -> str:
        """A new run whose answers at these places are held."""
        name = f"{deployment}-{secrets.token_hex(3)}"
        self.sink.hold(*(f"{name}-{place}" for place in places))
        self.installed.run(name, deployment, parameters={"sink": self.sink.url, "name": name})
        return name

    def reached(self, run: str, phase: str) -> Told:
        """The first event that shows ``phase``."""
        return self.runs.first(run, lambda told: told.object.get("status", {}).get("phase") == phase, phase)

    def pod(self, run: str) -> dict[str, Any]:
        """The latest that is told of the pod of the run's first attempt."""
        return next(told for told in reversed(self.pods.told) if _job_of(told) == f"{run}-1").object

    def delete(self, *words: str) -> None:
        self.installed.cluster.kubectl("delete", *words, "-n", self.installed.namespace)


@pytest.fixture
def world(installed: Installed, tmp_path: Path) -> Iterator[World]:
    cluster = installed.cluster
    assert cluster.host_address is not None
    sink = Sink(tmp_path / "effects", cluster.host_address)
    with ExitStack() as stack:
        stack.callback(sink.close)
        watched = (
            stack.enter_context(watching(cluster.kubeconfig, installed.namespace, plural))
            for plural in ("flowruns", "jobs", "pods", "workpools")
        )
        yield World(installed, sink, *watched)


def _job_of(told: Told) -> str:
    return told.object["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name", "")


# ---------------------------------------------------------------------------------------------- ends in the middle


def _killed(world: World, pod: dict[str, Any]) -> None:
    world.installed.cluster.kill_container(pod["metadata"]["name"], world.installed.namespace, "flow")


def _force_deleted(world: World, pod: dict[str, Any]) -> None:
    world.delete("pod", pod["metadata"]["name"], "--force", "--grace-period=0")


def _at_the_third(world: World) -> dict[str, str]:
    """A run of each shape of which three tasks have returned, by shape."""
    runs = {
        "loop": world.hold("loop", "after-3"),
        "gathered": world.hold("gathered", "1", "3", "5"),
        "caught": world.hold("caught", "after-3"),
    }
    for shape in ("loop", "caught"):
        world.sink.wait("returned", f"{runs[shape]}-after-3")
    for number in (0, 2, 4):
        world.sink.wait("returned", f"{runs['gathered']}-after-{number}")
    for number in (1, 3, 5):
        world.sink.wait("begins", f"{runs['gathered']}-{number}")
    return runs


@pytest.mark.parametrize("end", [pytest.param(_killed, marks=pytest.mark.node), _force_deleted])
def test_a_flow_ended_after_its_third_task_executes_the_other_three(
    world: World, end: Callable[[World, dict[str, Any]], None]
) -> None:
    runs = _at_the_third(world)
    pods = {shape: world.pod(name) for shape, name in runs.items()}
    for pod in pods.values():
        end(world, pod)
    for pod in pods.values():
        _assert_it_bit(world, pod, end)
    world.sink.release()
    for shape, name in runs.items():
        status = world.reached(name, "Completed").object["status"]
        first, second = status["attempts"]
        assert (first["number"], first["pod"]) == (1, pods[shape]["metadata"]["name"])
        assert (second["number"], second["outcome"]) == (2, "Completed")
        if end is _killed:
            assert (first["outcome"], first["exitCode"], first["reason"]) == ("Lost", 137, "Error")
            assert status["infrastructureLosses"] == 1
            _assert_the_loss_was_told(world, name)
        else:  # it had the time to say so: no budget is spent
            assert first["outcome"] == "HandedBack"
            assert status.get("infrastructureLosses", 0) == 0
    with world.installed.backend() as backend:
        for shape, name in runs.items():
            before = pods[shape]["metadata"]["name"]
            _assert_only_the_other_three_ran(world.sink, shape, name, before)
            _assert_the_journal(backend, world.reached(name, "Completed").object["status"], before)


def _assert_it_bit(world: World, pod: dict[str, Any], end: Callable[..., None]) -> None:
    name = pod["metadata"]["name"]
    if end is _force_deleted:
        world.pods.first(name, lambda told: told.type == "DELETED", "deletion")
        return

    def dead(told: Told) -> bool:
        statuses = told.object["status"].get("containerStatuses", [])
        return any(one["state"].get("terminated", {}).get("exitCode") == 137 for one in statuses)

    world.pods.first(name, dead, "exit code 137")


def _assert_the_loss_was_told(world: World, run: str) -> None:
    """While the next attempt was due, condition and diagnosis said what had become of the first."""
    lost = world.runs.first(
        run, lambda told: _condition(told, "Degraded").get("reason") == "AttemptLost", "AttemptLost"
    )
    assert "signal 9" in _condition(lost, "Degraded")["message"]
    assert lost.object["status"]["diagnosis"]["category"] == "Killed"


def _condition(told: Told, type_: str) -> dict[str, Any]:
    conditions = told.object.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == type_), {})


def _assert_only_the_other_three_ran(sink: Sink, shape: str, name: str, before: str) -> None:
    if shape == "loop":
        effects = [effect for effect in sink.effects if effect.what == name]
        assert len({effect.tag for effect in effects}) == 6
        assert [effect.by == before for effect in effects] == [True] * 3 + [False] * 3
        return
    by = {number: [effect.by == before for effect in sink.of(f"{name}-{number}")] for number in range(6)}
    if shape == "gathered":  # the other three had begun: they were killed, and run again
        assert by == {number: [True] if number % 2 == 0 else [True, False] for number in range(6)}
    else:  # the second one failed; its failure is known and not tried again
        assert by == {number: [number < 3] for number in range(6)}


def _assert_the_journal(backend: Backend, status: dict[str, Any], before: str) -> None:
    """What stands there, by whom: nothing of the first attempt after the second has begun, and the flow's result."""
    run_id = ids.parse(status["runId"])
    records = [decode(one, backend.codec, run_id) for one in backend.store.log(log_name(run_id)).read()]
    second = next(place for place, one in enumerate(records) if isinstance(one, Opening) and one.attempt == 2)
    old = [_pod_of(one, backend, run_id) for one in records[:second] if isinstance(one, TaskOutcome)]
    assert [pod in (before, None) for pod in old] == [True] * 3
    *later, end = records[second + 1 :]
    new = [_pod_of(one, backend, run_id) for one in later]
    assert new == [status["attempts"][1]["pod"]] * 3
    assert isinstance(end, AttemptEnd)
    assert (end.attempt, end.end) == (2, "Completed")
    assert end.result is not None
    result = backend.codec.decode(end.result, "result", run_id)
    told = [pod or "ValueError: refused 1" for pod in old + new]
    assert sorted(result) == sorted(told)


def _pod_of(record: Record, backend: Backend, run_id: ids.RunId) -> str | None:
    """The pod that a task's outcome names; None for a failure."""
    assert isinstance(record, TaskOutcome)
    if record.state != "COMPLETED":
        return None
    assert record.value is not None
    return backend.codec.decode(record.value, "result", record.key)


# ---------------------------------------------------------------------------------------------- the Job's word


def test_completed_comes_a_second_before_the_job_says_so(world: World) -> None:
    name = world.start("one")
    shown = world.reached(name, "Completed")
    job = world.jobs.first(f"{name}-1", lambda told: _condition(told, "Complete").get("status") == "True", "Complete")
    print(f"Completed was shown {job.at - shown.at:.2f} s before the Job's Complete")
    assert job.at - shown.at >= 1.0


def test_a_job_deleted_by_hand(world: World) -> None:
    """In the middle: the run goes on in another Job. After the end: the run is Completed, and stays so."""
    middle, after = world.hold("one", "0"), world.start("one")
    world.reached(after, "Completed")
    world.delete("job", f"{after}-1")
    world.sink.wait("begins", f"{middle}-0")
    world.delete("job", f"{middle}-1")
    world.sink.wait("begins", f"{middle}-0", times=2)
    world.sink.release()
    attempts = world.reached(middle, "Completed").object["status"]["attempts"]
    assert [(one["job"], one["outcome"]) for one in attempts] == [
        (f"{middle}-1", "HandedBack"),
        (f"{middle}-2", "Completed"),
    ]
    world.jobs.first(f"{after}-1", lambda told: told.type == "DELETED", "deletion")
    status = world.installed.get("flowruns", after)["status"]
    assert status["phase"] == "Completed"
    assert [(one["job"], one["outcome"]) for one in status["attempts"]] == [(f"{after}-1", "Completed")]
    assert len(world.sink.of(f"{after}-0")) == 1
    assert not [told for told in world.jobs.told if told.name == f"{after}-2"]


# ---------------------------------------------------------------------------------------------- stopped, limited


def test_a_cancelled_run_ends_and_its_pod_goes(world: World) -> None:
    name = world.hold("loop", "after-1")
    world.sink.wait("returned", f"{name}-after-1")
    pod = world.pod(name)["metadata"]["name"]
    patch = ("--type=merge", "--patch", '{"spec":{"cancel":true}}')
    world.installed.cluster.kubectl("patch", f"flowruns.kapstan.dev/{name}", "-n", world.installed.namespace, *patch)
    status = world.reached(name, "Cancelled").object["status"]
    world.pods.first(pod, lambda told: told.type == "DELETED", "deletion")
    world.sink.release()
    assert status["diagnosis"]["category"] == "Cancelled"
    assert len(status["attempts"]) == 1
    assert [effect.by for effect in world.sink.effects if effect.what == name] == [pod]


def test_a_flow_that_outgrows_its_pod_spends_its_own_retries(world: World) -> None:
    name = f"hungry-{secrets.token_hex(3)}"
    world.installed.run(name, "hungry", parameters={"megabytes": 400})
    status = world.reached(name, "Crashed").object["status"]
    assert [(each["outcome"], each["reason"]) for each in status["attempts"]] == [("Lost", "OOMKilled")] * 2
    assert status.get("infrastructureLosses", 0) == 0
    assert status["diagnosis"]["category"] == "OOMKilled"
    assert "resources.limits.memory" in status["diagnosis"]["resolution"]


def test_a_pool_with_one_place_runs_one_after_the_other(world: World) -> None:
    first = world.hold("single", "after-3")
    world.sink.wait("returned", f"{first}-after-3")
    second = world.start("single")
    world.runs.first(second, lambda told: _condition(told, "Progressing").get("reason") == "WaitsForPool", "waiting")
    assert not [told for told in world.pods.told if _job_of(told) == f"{second}-1"]
    world.sink.release()
    world.reached(first, "Completed")
    world.reached(second, "Completed")
    told = [effect.what if effect.what != "returned" else effect.tag[: len(first)] for effect in world.sink.effects]
    assert told == [first] * 12 + [second] * 12
    pools = [told.object.get("status", {}) for told in world.pools.told if told.name == "single-place"]
    assert max(status.get("inFlight", 0) for status in pools) == 1
