"""Redis and MinIO killed under load and kept away: workers and flows come back by themselves, and nothing is lost.

In flight at the kill: two runs in the middle of their work, a queue behind them, and a flow between two steps, which
submits a background run with each. The service's next container comes at once, but nobody reaches it before the test
says so.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from tests.e2e import product
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening, serving, submitting
from tests.e2e.sink import Sink
from tests.e2e.workload.background import effect, large

from kapstan.futures import Future

pytestmark = pytest.mark.node

NAME = "outages"
WORKERS = f"kapstan.dev/task-worker={NAME}"
QUEUED, STEPS, HELD_STEP = 20, 6, 3
REDIS_IS_BACK, STORE_IS_BACK = r"Redis at \S+ is back after", "answers again after"
NO_ERA = "The lease is not renewed since .* gave no answer"


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Installed]:
    """Two pods that execute one run at a time, and a Deployment of the flow."""
    code = {"entrypoint": "background.py:feeding", "image": installed.image}
    installed.apply("Deployment", NAME, {"flow": code, "workPoolRef": {"name": "pool"}})
    _refresh(installed)
    with serving(installed, NAME, 2):
        yield installed


@pytest.fixture
def sink(installed: Installed, tmp_path: Path) -> Iterator[Sink]:
    with listening(installed, tmp_path) as sink:
        yield sink


@dataclass(frozen=True)
class Load:
    """What is in flight: runs by tag, and the flow run ``name``."""

    installed: Installed
    sink: Sink
    name: str
    runs: dict[str, UUID]

    @classmethod
    def begin(cls, installed: Installed, sink: Sink, name: str) -> Load:
        """Returns when two runs and the flow are held in the middle."""
        sink.hold("held", "large", f"{name}-{HELD_STEP}")
        with submitting(installed):
            runs = {"held": effect.delay(sink.url, "held"), "large": large.delay(sink.url, "large")}
            sink.wait("begins", "held")
            sink.wait("begins", "large")
            runs |= {tag: effect.delay(sink.url, tag) for tag in (f"queued-{number}" for number in range(QUEUED))}
            installed.run(name, NAME, parameters={"sink": sink.url, "name": name, "count": STEPS})
            sink.wait("begins", f"{name}-{HELD_STEP}")
            return cls(installed, sink, name, {tag: run.task_run_id for tag, run in runs.items()})

    def assert_nothing_lost(self) -> None:
        """Everything ends, in the attempt and in the processes that it was in, and every effect was there once."""
        run = self.installed.wait("flowruns", self.name, ".status.phase", "Completed")
        assert [attempt["outcome"] for attempt in run["status"]["attempts"]] == ["Completed"]
        fed = [f"{self.name}-fed-{number}" for number in range(STEPS)]
        with submitting(self.installed):
            for tag, run_id in self.runs.items():
                assert Future[str](run_id).result(60), tag
        for tag in fed:
            self.sink.wait("ends", tag)
        steps = [f"{self.name}-{number}" for number in range(STEPS)]
        assert Counter(self.sink.count("begins")) == Counter([*self.runs, *fed, *steps]), self.worker_log
        pods = self.installed.cluster.get("pods", "-n", self.installed.namespace, "-l", WORKERS)["items"]
        assert [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods] == [0, 0]

    def log(self, selector: str) -> str:
        """What the pods of ``selector`` wrote."""
        return self.installed.cluster.kubectl("logs", "-n", self.installed.namespace, "--tail=-1", "-l", selector)

    @property
    def worker_log(self) -> str:
        return self.log(WORKERS)

    def await_worker_log(self, words: str) -> None:
        deadline, pause = time.monotonic() + 20, threading.Event()
        while re.search(words, self.worker_log) is None:
            assert time.monotonic() < deadline, self.worker_log
            pause.wait(0.2)

    @property
    def flow_log(self) -> str:
        return self.log(f"kapstan.dev/flow-run={self.name}")


@contextmanager
def away(installed: Installed, service: str) -> Iterator[None]:
    """SIGKILL ``service`` and keep everybody from the container that replaces it, for as long as the block lasts."""
    cluster, name = installed.cluster, f"{product.RELEASE}-{service}"
    pod = (f"pod/{name}-0", "-n", product.NAMESPACE)
    _reachable(installed, name, False)
    try:
        killed = cluster.kill_container(f"{name}-0", product.NAMESPACE, service)
        yield
        path = "{.status.containerStatuses[0].lastState.terminated.containerID}=containerd://" + killed
        cluster.kubectl("wait", f"--for=jsonpath={path}", *pod, "--timeout=60s", timeout=70)
    finally:
        cluster.kubectl("wait", "--for=condition=Ready", *pod, "--timeout=60s", timeout=70)
        _reachable(installed, name, True)


def _refresh(installed: Installed) -> None:
    """On a cluster that is kept, services as if new, whatever an earlier session did to them or was stopped in.

    The oftener a container died lately, the longer the kubelet waits before it starts it again; a new pod it starts at
    once. What the old ones stored is gone, and nobody waits for it.
    """
    where = ("-n", product.NAMESPACE)
    for service in ("redis", "minio"):
        name = f"{product.RELEASE}-{service}"
        _reachable(installed, name, True)
        (status,) = installed.cluster.get("pod", f"{name}-0", *where)["status"]["containerStatuses"]
        if status["restartCount"]:
            installed.cluster.kubectl("delete", "pod", f"{name}-0", *where)
            rollout = ("rollout", "status", f"statefulset/{name}", *where, "--timeout=60s")
            installed.cluster.kubectl(*rollout, timeout=70)


def _reachable(installed: Installed, service: str, yes: bool) -> None:
    """Let the Service find its pod, or nothing."""
    patch = {"spec": {"selector": {"kapstan.test/away": None if yes else "true"}}}
    where = (service, "-n", product.NAMESPACE)
    installed.cluster.kubectl("patch", "service", *where, "--type=merge", "-p", json.dumps(patch))


def felt(log: str, words: str) -> float:
    """The longest outage that ``log`` tells of, in seconds; 0 for none."""
    return max(map(float, re.findall(rf"{words} ([0-9.]+) s", log)), default=0.0)


def stay(since: float, seconds: float) -> None:
    """Let the outage last until ``seconds`` after ``since``."""
    threading.Event().wait(max(0.0, since + seconds - time.monotonic()))


def test_redis_is_killed_and_five_seconds_away(served: Installed, sink: Sink) -> None:
    load = Load.begin(served, sink, "redis-away")
    with away(served, "redis"):
        since = time.monotonic()
        sink.release()
        stay(since, 5)
    load.assert_nothing_lost()
    for log in (load.worker_log, load.flow_log):
        assert felt(log, REDIS_IS_BACK) > 3


def test_minio_is_twenty_seconds_away(served: Installed, sink: Sink) -> None:
    load = Load.begin(served, sink, "minio-away")
    with away(served, "minio"):
        since = time.monotonic()
        sink.release()
        stay(since, 20)
    load.assert_nothing_lost()
    for log in (load.worker_log, load.flow_log):
        assert felt(log, STORE_IS_BACK) > 15


def test_both_are_twenty_seconds_away(served: Installed, sink: Sink) -> None:
    load = Load.begin(served, sink, "both-away")
    degraded = '.status.conditions[?(@.type=="Degraded")].reason'
    with away(served, "minio"):
        with away(served, "redis"):
            since = time.monotonic()
            sink.release()
            served.wait("taskworkers", NAME, degraded, "QueueUnavailable", 20)
            stay(since, 20)
        # Redis has started anew: nobody may claim before the store, which is away still, has said which era this is.
        # Every lease has passed by now, and is given anew with that era.
        load.await_worker_log(NO_ERA)
    load.assert_nothing_lost()
    for log in (load.worker_log, load.flow_log):
        assert felt(log, REDIS_IS_BACK) > 10  # from its first command on: a lease is renewed every few seconds
    served.wait("taskworkers", NAME, degraded, "AsExpected")
