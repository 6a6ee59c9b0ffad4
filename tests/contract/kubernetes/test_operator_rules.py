"""What the operator makes of a foreign Job, a lost node, a failed run that shall go on, and two objects of one run.

The real operator at a real API server. No kubelet runs here: a pod that was bound to a node and deleted stays
Terminating for ever, as on a node that is lost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import Install, MakeTeam, Manifest, Team, signing_key, until
from tests.servers.minio import Minio
from tests.servers.redis import RedisServer

from kapstan import ids
from kapstan.backend import Backend
from kapstan.errors import Fenced
from kapstan.journal import Journal
from kapstan.runs.records import Records

KEY = signing_key("ruled")


@pytest.fixture
def team(api_server: ApiServer, install: Install, make_team: MakeTeam) -> Team:
    """A team whose operator leads."""
    made = make_team("ruled")
    install("ruled-system", "namespaces={ruled}", KEY).start("a").leads()
    return made


@pytest.fixture
def backend(operators_redis: RedisServer, minio: Minio) -> Iterator[Backend]:
    """The team's store and queue, as `kapstan flow-run` reaches them."""
    settings = minio.settings(redis_url=operators_redis.url, namespace="ruled", signing_key=KEY.partition("=")[2])
    opened = Backend(settings)
    yield opened
    opened.close()


def condition(status: Manifest, type_: str) -> tuple[str, str]:
    found: Manifest = next((one for one in status.get("conditions", []) if one["type"] == type_), {})
    return found.get("status", ""), found.get("reason", "")


def job(team: Team, name: str) -> Manifest:
    answer = team.server.request("GET", f"/apis/batch/v1/namespaces/{team.name}/jobs/{name}")
    assert answer.code == 200, answer.message
    return answer.body


def patch(team: Team, run: str, body: Manifest, *options: str) -> None:
    done = team.server.kubectl(
        *("patch", "flowruns.kapstan.dev", run, "-n", team.name, "--type=merge", "-p", json.dumps(body)), *options
    )
    assert done.returncode == 0, done.stderr


def test_a_foreign_job_is_told_of_and_holds_nothing_up(team: Team) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "migrate", "image": "migrate:1"}]}}
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "r1-1", "namespace": team.name},
        "spec": {"template": template},
    }
    assert team.server.kubectl("apply", "-f", "-", text=json.dumps(foreign)).returncode == 0
    before = job(team, "r1-1")
    team.apply("WorkPool", "pool", {"concurrency": {"maxInFlight": 2}})
    team.run("r1")
    status = until(lambda: team.status("r1"), lambda status: len(status.get("attempts", [])) == 2, "second attempt")
    assert (status["attempts"][0]["outcome"], status["attempts"][0]["reason"]) == ("HandedBack", "NameTaken")
    team.run("r2")
    team.started("r2")
    team.started("r1")
    assert team.jobs("r1") == ["r1-2"]
    assert job(team, "r1-1")["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    events = team.server.request("GET", f"/api/v1/namespaces/{team.name}/events").body["items"]
    told = [event["message"] for event in events if event["reason"] == "NameTaken"]
    assert len(told) == 1, told
    assert "does not belong to FlowRun 'r1'" in told[0]


def test_a_pod_on_a_lost_node_does_not_hold_its_run_for_ever(team: Team) -> None:
    team.apply("WorkPool", "pool", {"deadlines": {"unreachableSeconds": 1}})
    team.run("r1")
    team.started("r1")
    made = job(team, "r1-1")
    template = made["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "r1-1", "uid": made["metadata"]["uid"]}
    metadata = {
        "name": "r1-1-x",
        "namespace": team.name,
        "labels": template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": "r1-1"},
        "annotations": template["metadata"].get("annotations") or {},
        "ownerReferences": [owner],
    }
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    pod["spec"] = template["spec"] | {"nodeName": "lost"}
    pods = f"/api/v1/namespaces/{team.name}/pods"
    assert team.server.request("POST", pods, pod).code == 201
    running = {"name": "flow", "image": "etl:1", "imageID": "", "ready": True, "restartCount": 0}
    running["state"] = {"running": {"startedAt": made["metadata"]["creationTimestamp"]}}
    status = {"status": {"phase": "Running", "containerStatuses": [running]}}
    done = team.server.kubectl(
        *("patch", "pod", "r1-1-x", "-n", team.name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    )
    assert done.returncode == 0, done.stderr
    until(lambda: team.status("r1"), lambda status: status.get("phase") == "Running", "run")
    done = team.server.kubectl("delete", "pod", "r1-1-x", "-n", team.name, "--grace-period=1", "--wait=false")
    assert done.returncode == 0, done.stderr
    assert "deletionTimestamp" in team.server.request("GET", f"{pods}/r1-1-x").body["metadata"], "it hangs"
    until(lambda: team.jobs("r1"), lambda jobs: "r1-2" in jobs, "successor")
    status = team.started("r1")
    assert [attempt.get("outcome") for attempt in status["attempts"]] == ["Lost", None]
    assert status["infrastructureLosses"] == 1


def test_a_failed_run_goes_on_when_it_is_asked_to(team: Team) -> None:
    team.run("r1")
    (attempt,) = team.started("r1")["attempts"]
    ended = attempt | {"outcome": "Failed", "finishedAt": "2026-01-01T00:00:00Z"}
    patch(team, "r1", {"status": {"phase": "Failed", "attempts": [ended]}}, "--subresource=status")
    patch(team, "r1", {"spec": {"resume": 1}})
    status = until(lambda: team.status("r1"), lambda status: len(status.get("attempts", [])) == 2, "second attempt")
    assert (status["resumed"], status["resumedAfter"]) == (1, 1)
    team.started("r1")
    (container,) = job(team, "r1-2")["spec"]["template"]["spec"]["containers"]
    assert "--again" in container["args"]


def test_two_objects_with_one_key_are_one_run(team: Team) -> None:
    asked = {"deploymentRef": {"name": "etl"}, "idempotencyKey": "order-7"}
    team.apply("FlowRun", "first", asked)
    first = team.started("first")
    team.apply("FlowRun", "second", asked)
    second = until(lambda: team.status("second"), lambda status: status.get("phase"), "word about the second")
    assert second["runId"] == first["runId"]
    assert condition(second, "Progressing") == ("False", "SameRun")
    assert (team.jobs("first"), team.jobs("second")) == (["first-1"], [])
    done = team.server.kubectl("delete", "flowruns.kapstan.dev", "first", "-n", team.name)
    assert done.returncode == 0, done.stderr
    team.started("second")
    assert team.jobs("second") == ["second-1"]


def test_a_run_that_the_operator_gives_up_is_crashed_in_its_journal_too(team: Team, backend: Backend) -> None:
    """No process of it could write that: the one that was lost may still live, and is fenced by it."""
    spec = {"flow": {"entrypoint": "etl:main", "image": "etl:1"}, "workPoolRef": {"name": "pool"}}
    team.apply("Deployment", "etl", spec | {"infrastructureRetries": 0})
    team.run("r1")
    team.started("r1")
    done = team.server.kubectl("delete", "job", "r1-1", "-n", team.name)
    assert done.returncode == 0, done.stderr
    status = until(lambda: team.status("r1"), lambda status: status.get("phase") == "Crashed", "end")
    run_id, records = ids.parse(status["runId"]), Records(backend)
    end = records.history(run_id).end
    assert end is not None
    assert (end.end.value, end.message) == ("Crashed", status["message"])
    late = Journal(backend.store, backend.codec, run_id)
    with pytest.raises(Fenced):  # a process that was lost and begins late
        late.open(1, host="lost", now=0.0)
    late.close()
    shown = records.summary(run_id)
    assert shown is not None
    assert (shown["state"], shown["message"]) == ("CRASHED", status["message"])


def runs_of(team: Team, deployment: str) -> dict[str, Manifest]:
    """FlowRuns that schedules of a Deployment made, the oldest first."""
    path = f"/apis/kapstan.dev/v1alpha1/namespaces/{team.name}/flowruns"
    answer = team.server.request("GET", path, query=f"&labelSelector=kapstan.dev/deployment%3D{deployment}")
    assert answer.code == 200, answer.message
    found = sorted(answer.body["items"], key=lambda run: run["spec"]["scheduledTime"])
    return {run["metadata"]["name"]: run for run in found}


def test_replace_cancels_the_oldest_for_the_new_one_and_brings_back_none_that_was_deleted(team: Team) -> None:
    often: Manifest = {
        "flow": {"entrypoint": "etl:main", "image": "etl:1"},
        "workPoolRef": {"name": "pool"},
        "schedules": [{"name": "quick", "interval": 2}],
        "concurrency": {"limit": 1, "policy": "Replace"},
    }
    team.apply("Deployment", "often", often)
    first = next(iter(until(lambda: runs_of(team, "often"), bool, "first run")))
    done = team.server.kubectl("delete", "flowruns.kapstan.dev", first, "-n", team.name)
    assert done.returncode == 0, done.stderr
    until(lambda: runs_of(team, "often"), lambda runs: len(runs) >= 4, "four runs")
    team.apply("Deployment", "often", often | {"suspend": True})

    def is_settled(runs: dict[str, Manifest]) -> bool:
        *replaced, last = runs.values()
        return last.get("status", {}).get("phase") == "Pending" and all(
            run.get("status", {}).get("phase") == "Cancelled" for run in replaced
        )

    runs = until(lambda: runs_of(team, "often"), is_settled, "one run that lives")
    *replaced, last = runs
    assert first not in runs, "an apply would have made it anew"
    assert all(runs[name]["spec"]["cancel"] for name in replaced)
    assert not runs[last]["spec"].get("cancel")
    until(lambda: [team.jobs(name) for name in replaced], lambda jobs: not any(jobs), "end of their Jobs")
    assert team.jobs(last) == [f"{last}-1"]
    assert team.jobs(first) == []


def test_a_place_that_is_given_back_is_taken_at_once(team: Team) -> None:
    """What a run waits for is a place, not a beat of the operator: 30 short runs at 4 places took twice the time of a
    bare Job of the same length."""
    spec = {"flow": {"entrypoint": "etl:main", "image": "etl:1"}, "workPoolRef": {"name": "pool"}}
    team.apply("Deployment", "etl", spec | {"infrastructureRetries": 0})
    team.apply("WorkPool", "pool", {"concurrency": {"maxInFlight": 2}})
    names = [f"r{number}" for number in range(9)]
    for name in names:
        team.run(name)
    jobs = f"/apis/batch/v1/namespaces/{team.name}/jobs"

    def running() -> set[str]:
        return {each["metadata"]["name"] for each in team.server.request("GET", jobs).body["items"]}

    present = until(running, lambda found: len(found) == 2, "two Jobs")
    until(lambda: team.status(names[-1]), lambda status: "waits for a place" in status.get("message", ""), "its wait")
    waits: list[float] = []
    gone = set[str]()
    while len(waits) < 7:
        ended = min(present)
        assert team.server.request("DELETE", f"{jobs}/{ended}", query="&propagationPolicy=Background").code == 200
        begun = time.monotonic()
        gone.add(ended)
        present = until(running, lambda found: len(found - gone) == 2, "successor") - gone
        waits.append(time.monotonic() - begun)
    assert {f"{name}-1" for name in names} - present == {f"{name}-1" for name in names[:7]}, "the oldest first"
    assert statistics.median(waits) < 1.0, waits
