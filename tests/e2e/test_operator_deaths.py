"""The operator is killed at every write of a FlowRun's way: exactly one Job per attempt, and the status converges.

The operator under test is a process of this machine, under the chart's rights, in namespaces that the installed one
does not serve. Between it and the API server stands a relay that kills it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from kubernetes import client, config
from tests.e2e import product
from tests.e2e.conftest import TEAM, Installed
from tests.e2e.deadly_relay import Blow, DeadlyRelay
from tests.e2e.sink import Sink
from tests.e2e.watched import Told, Watched, watching

from kapstan.settings import Settings

MOST = 30
"""More writes than a short run can need."""
LEAST = {"POST jobs 1", *(f"PATCH flowruns {n}" for n in (1, 2, 3)), *(f"POST events {n}" for n in (1, 2))}
"""What no run goes without: the attempt recorded, its Job, that it was answered, the end; the events of both."""
OPERATOR = f"{product.RELEASE}-operator"


class OperatorProcess:
    """Starts and ends operators of one namespace, one at a time, each behind the relay."""

    def __init__(self, installed: Installed, settings: Settings, relay: DeadlyRelay, home: Path) -> None:
        self._namespace = installed.namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._leases = client.CoordinationV1Api(config.new_client_from_config(str(installed.cluster.kubeconfig)))
        self._home = home
        token = installed.cluster.kubectl("create", "token", OPERATOR, "-n", product.NAMESPACE).strip()
        (home / "kubeconfig").write_text(_kubeconfig(relay.url, token))
        (home / "keys").mkdir()
        (home / "keys" / self._namespace).write_text(settings.signing_key)
        stored = ("redis_url", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_secret_key")
        self._environ = {
            "PATH": os.environ["PATH"],
            "KAPSTAN_HOME": str(home),
            "KAPSTAN_KUBECONFIG": str(home / "kubeconfig"),
            **{f"KAPSTAN_{name.upper()}": str(getattr(settings, name)) for name in stored},
        }

    @property
    def _lease(self) -> str:
        return f"{OPERATOR}-of-{self._namespace}"

    def start(self) -> None:
        assert self._process is None or self._process.returncode is not None
        command = [sys.executable, "-m", "kapstan", "operator", "start", f"--namespaces={self._namespace}"]
        options = [
            f"--signing-keys={self._home / 'keys'}",
            f"--lease={product.NAMESPACE}/{self._lease}",
            "--health-port=0",
        ]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=self._environ)

    def kill(self) -> None:
        """SIGKILL; its Lease is taken away, because the wait for that is shown by the elector's own tests."""
        assert self._process is not None
        self._process.kill()
        assert self._process.wait(10) == -9
        self.forget_lease()

    def end(self) -> bool:
        """SIGTERM; whether it ended by that, and was not killed."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(20)
        assert code in (0, -9), self.log()
        return code == 0

    def leave(self) -> None:
        """Nothing of it stays, however the test ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self.forget_lease()
        self._leases.api_client.close()

    def forget_lease(self) -> None:
        try:
            self._leases.delete_namespaced_lease(self._lease, product.NAMESPACE)
        except client.ApiException as error:
            if error.status != 404:
                raise

    def log(self) -> str:
        return (self._home / "log").read_text()[-4000:]


def _kubeconfig(server: str, token: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "relay", "cluster": {"server": server}}],
            "users": [{"name": "operator", "user": {"token": token}}],
            "contexts": [{"name": "relay", "context": {"cluster": "relay", "user": "operator"}}],
            "current-context": "relay",
        }
    )


@dataclass(frozen=True)
class Place:
    """A namespace of its own with an operator of its own, and what is seen of it."""

    installed: Installed
    operator: OperatorProcess
    relay: DeadlyRelay
    sink: Sink
    runs: Watched
    jobs: Watched

    def run(self, name: str) -> None:
        self.installed.run(name, "one", parameters={"sink": self.sink.url, "name": name})

    def reached(self, name: str, phase: str) -> Told:
        return self.runs.first(name, lambda told: told.object.get("status", {}).get("phase") == phase, phase)

    def removed(self, job: str) -> Told:
        return self.jobs.first(job, lambda told: told.type == "DELETED", "deletion")

    def assert_one_job_and_one_effect(self, name: str) -> None:
        status = self.reached(name, "Completed").object["status"]
        assert [(one["number"], one["job"], one["outcome"]) for one in status["attempts"]] == [
            (1, f"{name}-1", "Completed")
        ]
        jobs = {(told.name, told.object["metadata"]["uid"]) for told in self.jobs.told if told.name.startswith(name)}
        assert [job for job, _ in jobs] == [f"{name}-1"]
        assert len(self.sink.of(f"{name}-0")) == 1


@pytest.fixture(scope="module")
def places(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Place]]:
    """Two of them: most of the time somebody waits."""
    home = tmp_path_factory.mktemp("operators")
    with ExitStack() as stack:
        with installed.backend() as backend:
            settings = backend.settings
        yield [_place(installed, settings, name, home / name, stack) for name in ("deaths-1", "deaths-2")]


def _place(installed: Installed, settings: Settings, namespace: str, home: Path, stack: ExitStack) -> Place:
    cluster = installed.cluster
    assert cluster.host_address is not None
    home.mkdir()
    cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", timeout=120)
    product.make_namespace(cluster, namespace)
    stack.callback(cluster.kubectl, "delete", "namespace", namespace, "--wait=false")
    for kind, name in (("secret", "kapstan-workload"), ("rolebinding", OPERATOR)):
        found = cluster.get(kind, name, "-n", TEAM)
        found["metadata"] = {"name": name, "namespace": namespace}
        cluster.kubectl("apply", "-f", "-", input=json.dumps(found))
    there = replace(installed, namespace=namespace)
    there.apply("WorkPool", "pool", {"ttlSecondsAfterFinished": 0})
    code = {"entrypoint": "deaths.py:one", "image": installed.image}
    there.apply("Deployment", "one", {"flow": code, "workPoolRef": {"name": "pool"}})
    sink = Sink(home / "effects", cluster.host_address)
    stack.callback(sink.close)
    runs = stack.enter_context(watching(cluster.kubeconfig, namespace, "flowruns"))
    jobs = stack.enter_context(watching(cluster.kubeconfig, namespace, "jobs"))
    relay = DeadlyRelay(cluster.kubeconfig, lambda: (jobs.look(), runs.look()))
    stack.callback(relay.close)
    operator = OperatorProcess(there, settings, relay, home)
    stack.callback(operator.leave)
    return Place(there, operator, relay, sink, runs, jobs)


@pytest.mark.timeout(300)
def test_killed_at_every_write_of_a_run(places: list[Place]) -> None:
    """Before each write, and after each: until a run made none at which no operator had been killed yet."""
    with ThreadPoolExecutor(2) as threads:
        before = threads.submit(_kill_at_each_write, places[0], False)
        after = threads.submit(_kill_at_each_write, places[1], True)
        for what, points in (("before", before.result()), ("after", after.result())):
            print(f"killed {what}: {', '.join(points)}")
            assert set(points) >= LEAST


def _kill_at_each_write(place: Place, after: bool) -> list[str]:
    """The writes at which an operator died."""
    points: list[str] = []
    for number in range(1, MOST):
        run = f"run-{number:02}"
        blow = Blow(run, frozenset(points), after, place.operator.kill)
        place.relay.arm(blow)
        place.operator.start()
        place.run(run)
        place.jobs.until(partial(_is_over, blow), f"end of {run}")
        place.runs.until(partial(_is_completed, blow), f"Completed of {run}")
        if not blow.struck and place.operator.end():  # at SIGTERM it finishes what it is at, or is killed in that
            break
        points.append(place.relay.struck(blow))
    for done in range(1, len(points) + 2):
        place.assert_one_job_and_one_effect(f"run-{done:02}")
        place.removed(f"run-{done:02}-1")
    return points


def _is_over(blow: Blow, told: list[Told]) -> bool:
    """The operator was killed, or the run's Job has come and gone."""
    return bool(blow.struck) or any(one.type == "DELETED" and one.name == f"{blow.run}-1" for one in told)


def _is_completed(blow: Blow, told: list[Told]) -> bool:
    """The operator was killed, or the run is Completed."""
    phases = (one.object.get("status", {}).get("phase") for one in told if one.name == blow.run)
    return bool(blow.struck) or "Completed" in phases


def test_a_job_that_was_deleted_while_no_operator_lived(places: list[Place]) -> None:
    """The run's own record answers for it: Completed, and no second execution."""
    place, run = places[0], "orphan"
    place.sink.hold(f"{run}-0")
    place.operator.start()
    place.run(run)
    place.reached(run, "Running")
    place.sink.wait("begins", f"{run}-0")
    place.operator.kill()
    place.sink.release()
    cluster, namespace = place.installed.cluster, place.installed.namespace
    job = f"job/{run}-1"
    cluster.kubectl("wait", "--for=jsonpath={.status.ready}=0", job, "-n", namespace, "--timeout=30s")
    cluster.kubectl("delete", job, "-n", namespace)
    place.removed(f"{run}-1")
    assert place.installed.get("flowruns", run)["status"]["phase"] == "Running"
    place.operator.start()
    place.assert_one_job_and_one_effect(run)
    assert place.operator.end()
