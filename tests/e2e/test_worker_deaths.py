"""Workers in pods that are scaled, told to end, and killed from outside: nothing is lost, nothing commits twice.

Effects are counted by the sink. A run is known to be in the middle of its work because the sink holds its first line.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tests.chaos.commits import Commits
from tests.e2e import product
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening, serving, submitting
from tests.e2e.sink import Effect, Sink
from tests.e2e.watched import Told, Watched, watching
from tests.e2e.workload.background import effect

from kapstan import backend, ids
from kapstan.futures import Future
from kapstan.queue.redis import RedisQueue

NAME, CONTAINER = "effects", "worker"
LEASE = 10.0
SEEN = 2.0
"""Seconds from a death that was seen to the end of the run elsewhere."""
OPERATOR = ("-n", product.NAMESPACE, f"deployment.apps/{product.RELEASE}-operator")


@pytest.fixture(scope="module")
def workers(installed: Installed) -> Iterator[Workers]:
    with serving(installed, NAME, 2):
        yield Workers(installed)


@pytest.fixture
def submits(installed: Installed, workers: Workers) -> Iterator[backend.Backend]:
    """This process submits, once both pods serve."""
    installed.wait("taskworkers", NAME, ".status.readyReplicas", "2")
    with submitting(installed) as ours:
        yield ours


@pytest.fixture
def sink(installed: Installed, tmp_path: Path) -> Iterator[Sink]:
    with listening(installed, tmp_path) as sink:
        yield sink


class Workers:
    """The TaskWorker of this file and its pods."""

    def __init__(self, installed: Installed) -> None:
        self.cluster = installed.cluster
        self.namespace = installed.namespace

    def scale(self, replicas: int) -> None:
        self.cluster.kubectl("scale", f"--replicas={replicas}", "-n", self.namespace, f"taskworkers.kapstan.dev/{NAME}")

    def pods(self) -> dict[str, dict[str, Any]]:
        """By name, those that end left out; the scale subresource's selector finds them."""
        path = f"/apis/kapstan.dev/v1alpha1/namespaces/{self.namespace}/taskworkers/{NAME}/scale"
        selector = json.loads(self.cluster.kubectl("get", "--raw", path))["status"]["selector"]
        found = self.cluster.get("pods", "-n", self.namespace, "-l", selector)["items"]
        return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def await_deletion(self, pod: str) -> None:
        self.cluster.kubectl("wait", "--for=delete", f"pod/{pod}", "-n", self.namespace, "--timeout=60s", timeout=70)

    @contextmanager
    def watched(self, pod: str) -> Iterator[Watched]:
        """A watch of the pods that has seen ``pod``."""
        with watching(self.cluster.kubeconfig, self.namespace, "pods") as pods:
            pods.first(pod, lambda _: True, "sight")
            yield pods

    def kill(self, pod: str) -> str:
        return self.cluster.kill_container(pod, self.namespace, CONTAINER)


def await_death(pods: Watched, pod: str, container: str) -> float:
    """When the watch told that ``container`` of ``pod`` had ended by SIGKILL."""

    def ends(told: Told) -> Iterator[dict[str, Any]]:
        for status in told.object["status"].get("containerStatuses", []):
            for state in (status["state"], status.get("lastState", {})):
                if str(state.get("terminated", {}).get("containerID")).endswith(container):
                    yield state["terminated"]

    told = pods.first(pod, lambda told: any(ends(told)), "death")
    assert [end["exitCode"] for end in ends(told)] == [137]
    return told.at


def begun(sink: Sink, tag: str) -> tuple[Future[str], Effect]:
    """A run that is in the middle of its work until ``sink.release(tag)``."""
    sink.hold(tag)
    future = effect.delay(sink.url, tag)
    return future, sink.wait("begins", tag)


def load(sink: Sink, name: str, count: int) -> list[Future[str]]:
    return [effect.delay(sink.url, f"{name}-{number}") for number in range(count)]


def assert_once(sink: Sink) -> None:
    """Every piece of work was begun once and ended once."""
    begins = sink.count("begins")
    assert begins == sink.count("ends") == Counter(list(begins))


@pytest.mark.usefixtures("submits")
def test_work_delayed_from_outside_runs_in_both_pods(workers: Workers, sink: Sink) -> None:
    sink.hold("one", "two")
    ids_of = {tag: effect.delay(sink.url, tag).task_run_id for tag in ("one", "two")}
    pods = {tag: sink.wait("begins", tag).by for tag in ids_of}
    sink.release()
    assert {tag: Future[str](run_id).result(30) for tag, run_id in ids_of.items()} == pods
    assert set(pods.values()) == set(workers.pods())
    assert_once(sink)


def test_scaling_down_and_up_under_load(
    installed: Installed, workers: Workers, submits: backend.Backend, sink: Sink
) -> None:
    held = dict((begun(sink, "a"), begun(sink, "b")))
    waiting = load(sink, "down", 20)
    workers.scale(1)
    installed.wait("taskworkers", NAME, ".status.drainingReplicas", "1")
    pods = workers.pods()
    (draining,) = [told.session for told in submits.queue.sessions() if told.draining]
    (victim,) = [name for name, pod in pods.items() if draining.startswith(pod["metadata"]["uid"])]
    (survivor,) = set(pods) - {victim}
    last = {first.by: (future, first.tag) for future, first in held.items()}
    sink.release(last[survivor][1])
    assert [future.result(60) for future in waiting] == [survivor] * len(waiting)
    assert set(workers.pods()) == {victim, survivor}  # it stays for as long as it executes
    sink.release()
    assert {pod: future.result(30) for pod, (future, _) in last.items()} == {victim: victim, survivor: survivor}
    workers.await_deletion(victim)
    assert set(workers.pods()) == {survivor}

    sink.hold("c", "d")
    both = [effect.delay(sink.url, tag) for tag in ("c", "d")]
    waiting = load(sink, "up", 20)
    workers.scale(2)
    assert {sink.wait("begins", tag).by for tag in ("c", "d")} == set(workers.pods())
    sink.release()
    assert [future.result(60) is not None for future in [*both, *waiting]] == [True] * 22
    assert_once(sink)


@pytest.mark.node
@pytest.mark.usefixtures("submits")
def test_a_worker_killed_by_its_node_is_replaced_within_two_seconds(workers: Workers, sink: Sink) -> None:
    future, first = begun(sink, "killed")
    with workers.watched(first.by) as pods:
        seen = await_death(pods, first.by, workers.kill(first.by))
    sink.release()
    second = sink.wait("ends", "killed")
    assert future.result(10) == second.by != first.by
    assert sink.count("begins")["killed"] == 2
    print(f"taken over {second.at - seen:.2f} s after the death was seen")
    assert second.at - seen <= SEEN


@pytest.mark.node
@pytest.mark.usefixtures("submits")
def test_where_only_the_lease_tells_it_takes_a_lease_and_a_quarter(
    installed: Installed, workers: Workers, sink: Sink
) -> None:
    cluster = installed.cluster
    future, first = begun(sink, "unseen")
    cluster.kubectl("scale", "--replicas=0", *OPERATOR)
    try:
        operators = ("-l", "app.kubernetes.io/component=operator", "-n", product.NAMESPACE)
        cluster.kubectl("wait", "--for=delete", "pod", *operators, "--timeout=60s", timeout=70)
        with workers.watched(first.by) as pods:
            container, killed = workers.kill(first.by), time.monotonic()
            await_death(pods, first.by, container)
        sink.release()
        second = sink.wait("ends", "unseen")
        assert future.result(10) == second.by
    finally:
        cluster.kubectl("scale", "--replicas=1", *OPERATOR)
        cluster.kubectl("rollout", "status", *OPERATOR, "--timeout=60s", timeout=70)
    print(f"taken over {second.at - killed:.2f} s after the death")
    assert SEEN < second.at - killed <= 1.25 * LEASE


def test_of_a_force_deleted_worker_nothing_commits_twice(
    workers: Workers, submits: backend.Backend, sink: Sink
) -> None:
    commits = Commits(cast("RedisQueue", submits.queue))
    future, first = begun(sink, "forced")
    try:
        workers.cluster.kubectl("delete", "pod", first.by, "-n", workers.namespace, "--force", "--grace-period=0")
        second = sink.wait("begins", "forced", times=2)
        sink.release()  # the old process, should it live, has lost its claim by now
        assert future.result(30) == second.by != first.by
        assert [once.result(30) for once in load(sink, "after", 10)]
        assert commits.seen[ids.parse(future.task_run_id)] == 1
    finally:
        commits.close()


def test_a_worker_that_is_told_to_end_drains(workers: Workers, submits: backend.Backend, sink: Sink) -> None:
    future, first = begun(sink, "draining")
    uid = workers.pods()[first.by]["metadata"]["uid"]
    workers.cluster.kubectl("delete", "pod", first.by, "-n", workers.namespace, "--wait=false")
    deadline, pause = time.monotonic() + 20, threading.Event()
    while not [told for told in submits.queue.sessions() if told.session.startswith(uid) and told.draining]:
        assert time.monotonic() < deadline, submits.queue.sessions()
        pause.wait(0.05)
    assert first.by not in {other.result(30) for other in load(sink, "others", 10)}
    sink.release()
    assert future.result(30) == first.by
    workers.await_deletion(first.by)
    assert_once(sink)
