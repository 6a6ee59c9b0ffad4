"""An operator among objects that nobody checked: what is wrong is left alone and told, and everything else goes on.

The schemas of this API server take anything, as those do that somebody has edited, or that are older than the operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.contract import apiserver
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import API, Install, Team, installer, signing_key, until
from tests.servers.minio import Minio
from tests.servers.redis import RedisServer

from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.work_pool.belonging import deployment_of, is_served, pool_named_by

CRDS = Path(__file__).parents[3] / "crds"
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
WRONG: list[Any] = [
    None,
    "text",
    7,
    -1,
    True,
    [],
    ["text"],
    {},
    {"name": 7},
    {"name": {}},
    10**18,
    "2026-01-01T00:00:00",
]


def unchecked(server: ApiServer) -> None:
    """Our definitions, without what they say of spec and status."""
    for path in sorted(CRDS.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        (version,) = definition["spec"]["versions"]
        version["schema"] = {"openAPIV3Schema": ANYTHING}
        version.pop("selectableFields", None)
        version["subresources"].pop("scale", None)
        if definition["spec"]["names"]["kind"] == "FlowRun":
            version["selectableFields"] = [{"jsonPath": ".status.phase"}]
            properties = {"status": {**ANYTHING, "properties": {"phase": {"type": "string"}}}}
            version["schema"] = {"openAPIV3Schema": {**ANYTHING, "properties": properties}}
        answer = server.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        assert answer.code == 201, answer.message
    done = server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lax(api_server: ApiServer) -> Iterator[ApiServer]:
    with apiserver.running() as started:
        unchecked(started)
        yield started


@pytest.fixture
def install_there(lax: ApiServer, operators_redis: RedisServer, minio: Minio, tmp_path: Path) -> Iterator[Install]:
    yield from installer(lax, operators_redis, minio, tmp_path)


def post(server: ApiServer, namespace: str, kind: str, name: str, **parts: Any) -> None:
    metadata = {"name": name, "namespace": namespace}
    manifest = {"apiVersion": API, "kind": kind, "metadata": metadata, **parts}
    path = f"/apis/{API}/namespaces/{namespace}/{kind.lower()}s"
    answer = server.request("POST", path, manifest)
    assert answer.code == 201, answer.message
    if "status" in parts:

        def put() -> int:
            stored = server.request("GET", f"{path}/{name}").body
            return server.request("PUT", f"{path}/{name}/status", stored | {"status": parts["status"]}).code

        until(put, lambda code: code == 200, f"status of {name}")  # the operator may write in between


def rubbish(server: ApiServer, namespace: str, prefix: str) -> list[str]:
    """Objects of every kind with parts of every type; the names of the FlowRuns."""
    runs: list[str] = []
    good = {"FlowRun": {"deploymentRef": {"name": "etl"}}, "Deployment": {"workPoolRef": {"name": "pool"}}}
    for number, value in enumerate(WRONG):
        for kind in ("FlowRun", "Deployment", "WorkPool", "TaskWorker"):
            post(server, namespace, kind, f"{prefix}-spec-{number}", spec=value)
        for part in ("deploymentRef", "scheduledTime", "cancel", "resume", "idempotencyKey", "parameters"):
            name = f"{prefix}-{part.lower()}-{number}"
            runs.append(name)
            post(server, namespace, "FlowRun", name, spec=good["FlowRun"] | {part: value})
        for part in ("workPoolRef", "flow", "schedules", "concurrency", "parameters"):
            spec = good["Deployment"] | {part: value}
            post(server, namespace, "Deployment", f"{prefix}-{part.lower()}-{number}", spec=spec)
        for part in ("attempts", "conditions", "resumed", "runId"):
            name = f"{prefix}-status-{part.lower()}-{number}"
            runs.append(name)
            status = {"phase": "Failed" if number % 2 else "Running", part: value}
            post(server, namespace, "FlowRun", name, spec=good["FlowRun"], status=status)
    return runs


def test_objects_of_any_shape_hold_nothing_up(lax: ApiServer, install_there: Install) -> None:
    team = Team(lax, "mixed").make()
    rubbish(lax, "mixed", "before")
    operator = install_there("mixed-system", "namespaces={mixed}", signing_key("mixed")).start("a").leads()
    team.run("good")
    team.started("good")
    rubbish(lax, "mixed", "after")
    team.run("later")
    team.started("later")
    operator.ready()
    wrong = [line for line in operator.output if "could not be reconciled" in line or "Traceback" in line]
    assert wrong == [], wrong[0]
    operator.await_line("after-deploymentref-1 is left alone")
    # Events are written sparingly: not one for each of hundreds.
    answer = lax.request("GET", "/api/v1/namespaces/mixed/events")
    told = [event for event in answer.body["items"] if event["reason"] == "InvalidSpec"]
    assert told
    about = {event["involvedObject"].get("name", "") for event in told}
    assert not about & {"good", "later", "etl", "pool", ""}


@pytest.mark.parametrize("value", WRONG, ids=json.dumps)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_what_is_read_of_every_object_comes_out_of_any(part: str, value: Any) -> None:
    run: dict[str, Any] = {"kind": "FlowRun", "metadata": {"name": "x", "namespace": "n"}, part: value}
    key = Key("FlowRun", "n", "x")
    RunBrief.of(run)
    deployment_of(key, run)
    pool_named_by(key, run)
    is_served(run)
    fields = ("deploymentRef", "workPoolRef", "scheduledTime", "resume", "attempts", "conditions", "phase", "resumed")
    for field in fields:
        for phase in ("Failed", "Running"):
            below: dict[str, Any] = {"phase": phase, field: value}
            run = {"kind": "FlowRun", "metadata": {"name": "x", "namespace": "n"}, "spec": {}, part: below}
            brief = RunBrief.of(run)
            assert sorted([brief, RunBrief.of(run)], key=RunBrief.order)
            deployment_of(key, run)
            pool_named_by(key, run)
            is_served(run)


def test_a_deployment_that_is_none_keeps_nobody_else_from_its_pool(lax: ApiServer, install_there: Install) -> None:
    team = Team(lax, "shared").make()
    spec = {"flow": {"entrypoint": "etl:main", "image": "etl:1"}, "workPoolRef": {"name": "pool"}}
    post(lax, "shared", "Deployment", "broken", spec=spec | {"concurrency": {"limit": 10**18}})
    install_there("shared-system", "namespaces={shared}", signing_key("shared")).start("a").leads()
    post(lax, "shared", "FlowRun", "of-broken", spec={"deploymentRef": {"name": "broken"}})
    team.run("r1")
    team.started("r1")
    assert team.jobs("of-broken") == []
    fixed = spec | {"concurrency": {"limit": 1}}
    done = lax.kubectl(
        *("patch", "deployments.kapstan.dev", "broken", "-n", "shared", "--type=merge"),
        *("-p", json.dumps({"spec": fixed})),
    )
    assert done.returncode == 0, done.stderr
    team.started("of-broken")


WHOSE = ("held", "place-deleted", "place-moved")


@pytest.fixture
def in_turn(lax: ApiServer, install_there: Install) -> list[Team]:
    """A namespace for each of ``WHOSE``, with a pool that takes one run at a time and two Deployments; one operator."""
    teams = [Team(lax, name).make() for name in WHOSE]
    values = (f"namespaces={{{','.join(WHOSE)}}}", *(signing_key(name) for name in WHOSE))
    install_there("turns-system", *values).start("a").leads()
    for team in teams:
        team.apply("WorkPool", "pool", {"concurrency": {"maxInFlight": 1}})
        team.apply("Deployment", "other", {"flow": FLOW, "workPoolRef": {"name": "pool"}})
    return teams


FLOW = {"entrypoint": "etl:main", "image": "etl:1"}


def has_to_wait(team: Team, run: str) -> None:
    team.apply("FlowRun", run, {"deploymentRef": {"name": "other"}})
    until(lambda: team.status(run), lambda status: "waits for a place" in status.get("message", ""), "its wait")
    assert team.jobs(run) == []


def test_places_are_kept_and_given_back_whatever_is_deleted(lax: ApiServer, in_turn: list[Team]) -> None:
    """A run whose Deployment is deleted or moved keeps its place in the pool; one that is deleted itself gives it back
    and ends, though the finalizer of another program holds the object for ever."""
    held, deleted, moved = in_turn
    metadata = {"name": "first", "namespace": held.name, "finalizers": ["example.org/keep"]}
    post(lax, held.name, "FlowRun", "first", spec={"deploymentRef": {"name": "etl"}}, metadata=metadata)
    for team in (deleted, moved):
        team.run("first")
    for team in in_turn:
        team.started("first")
    assert lax.kubectl("delete", "deployments.kapstan.dev", "etl", "-n", deleted.name).returncode == 0
    moved.apply("WorkPool", "elsewhere", {"concurrency": {"maxInFlight": 1}})
    moved.apply("Deployment", "etl", {"flow": FLOW, "workPoolRef": {"name": "elsewhere"}})
    moved.run("third")
    moved.started("third")  # the first one takes no place there
    for team in in_turn:
        has_to_wait(team, "second")
    for team in in_turn:
        assert lax.kubectl("delete", "flowruns.kapstan.dev", "first", "-n", team.name, "--wait=false").returncode == 0
    for team in in_turn:
        team.started("second")
    until(lambda: held.jobs("first"), lambda jobs: jobs == [], "end of its Job")
    assert "deletionTimestamp" in held.get("first")["metadata"], "the finalizer still holds it"
