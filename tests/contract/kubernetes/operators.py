"""The operator as the chart installs it, without a kubelet: rights at a real API server, a process of this machine.

Arguments, environment, signing keys and rights are those that `helm template` renders; only paths and the health port
are this machine's.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import yaml
from tests.cluster import tools
from tests.cluster.command import run
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress
from tests.contract.apiserver import ApiServer
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY, Minio, free_port
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "kapstan"
RELEASE = "kapstan"
API = "kapstan.dev/v1alpha1"
DEADLINE = 60.0
QUICK = 'operator.lease={"leaseSeconds": 4, "renewSeconds": 2, "retrySeconds": 0.2}'
T = TypeVar("T")
Manifest = dict[str, Any]


def until(look: Callable[[], T], holds: Callable[[T], Any], what: str, seconds: float = DEADLINE) -> T:
    """Look ten times a second until it holds; the last look."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not holds(found := look()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s: {found!r}"
        pause.wait(0.1)
    return found


def helm() -> str:
    """The program, or a skip."""
    try:
        tools.ensure(["helm"], Progress())
    except ClusterUnavailable as reason:
        pytest.skip(f"no helm: {reason}")
    return str(tools.path("helm"))


DEV_SERVICES = (
    "devServices.enabled=true",
    "devServices.redis.password=redis0000",
    "devServices.minio.password=minio0000",
)
"""Passwords included, which a rendering without a cluster cannot look up."""


def rendered(namespace: str, *values: str) -> list[Manifest]:
    """What `helm template` makes of the chart for a release in ``namespace``.

    Raises CommandFailed where the chart refuses the values.
    """
    words = ["--set-json", QUICK, *(word for value in values for word in ("--set", value))]
    command = [helm(), "template", RELEASE, str(CHART), "-n", namespace, "--kube-version", "1.34.0", *words]
    return [manifest for manifest in yaml.safe_load_all(run(command)) if manifest]


class Health(NamedTuple):
    """An answer of /readyz or /healthz."""

    code: int
    problems: list[str]
    leading: bool


class OperatorProcess:
    """One process of the operator. Its output is kept in ``output``."""

    def __init__(self, name: str, arguments: list[str], environ: Mapping[str, str]) -> None:
        self._health = f"http://127.0.0.1:{free_port()}"
        arguments = [word for word in arguments if not word.startswith("--health-port=")]
        command = [sys.executable, "-m", "kapstan", "operator", "start", *arguments]
        self._process = subprocess.Popen(
            [*command, f"--health-port={self._health.rpartition(':')[2]}"],
            env={"PATH": os.environ["PATH"], "HOSTNAME": name, "PYTHONPATH": str(ROOT / "operator"), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self.output.append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def said(self, text: str) -> bool:
        with self._said:
            return any(text in line for line in self.output)

    def await_line(self, text: str) -> None:
        with self._said:
            self._said.wait_for(lambda: self.said(text) or not self._reader.is_alive(), DEADLINE)
        assert self.said(text), "\n".join(self.output)

    def leads(self) -> OperatorProcess:
        self.await_line("leading as ")
        return self

    def ask(self, path: str) -> Health:
        """/readyz or /healthz; code 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"{self._health}{path}", timeout=5) as response:
                code, told = response.status, json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                code, told = refusal.code, json.load(refusal)
        except OSError:
            return Health(0, [], leading=False)
        return Health(code, sorted(told["problems"]), told.get("leading", False))

    def ready(self) -> OperatorProcess:
        until(lambda: self.ask("/readyz"), lambda health: health.code == 200, "readiness")
        return self

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        code = self._process.wait(DEADLINE)
        self._reader.join(10)
        return code

    def terminate(self) -> int:
        self._process.terminate()
        return self.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Installation:
    """The chart, applied as far as an API server without controllers and kubelet goes."""

    server: ApiServer
    namespace: str
    manifests: list[Manifest]
    home: Path

    def __post_init__(self) -> None:
        self._processes: list[OperatorProcess] = []
        namespaced, of_the_cluster = ("ServiceAccount", "Role", "RoleBinding"), ("ClusterRole", "ClusterRoleBinding")
        rights = [one for one in self.manifests if one["kind"] in (*namespaced, *of_the_cluster)]
        for one in rights:
            if one["kind"] in namespaced:
                one["metadata"].setdefault("namespace", self.namespace)
        done = self.server.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(rights))
        assert done.returncode == 0, done.stderr
        keys = self.home / "keys"
        keys.mkdir(parents=True)
        for name, key in self.one("Secret", f"{RELEASE}-signing-keys")["data"].items():
            (keys / name).write_bytes(base64.b64decode(key))
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = self.server.request("POST", path, request)
        assert answer.code == 201, answer.message
        self.token: str = answer.body["status"]["token"]

    account = f"{RELEASE}-operator"

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.account}"

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = [one for one in self.manifests if one["kind"] == kind and one["metadata"]["name"] == name]
        return found

    def start(self, name: str, server: str = "") -> OperatorProcess:
        """The operator of the chart, by way of ``server`` if one is named."""
        kubeconfig = self.home / f"kubeconfig-{name}"
        kubeconfig.write_text(self.server.kubeconfig_of(self.token, server))
        (container,) = self.one("Deployment", self.account)["spec"]["template"]["spec"]["containers"]
        arguments = [word for word in container["args"] if not word.startswith("--signing-keys=")]
        data = self.one("Secret", self.account)["data"]
        environ = {name: base64.b64decode(value).decode() for name, value in data.items()}
        environ |= {"KAPSTAN_KUBECONFIG": str(kubeconfig), "KAPSTAN_HOME": str(self.home / name)}
        process = OperatorProcess(name, [*arguments, f"--signing-keys={self.home / 'keys'}"], environ)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.close()

    # ------------------------------------------------------------------ the API server, as an admin

    def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Whether the operator's account may, by the API server's word."""
        spec = {
            "user": self.user,
            "resourceAttributes": {"namespace": namespace, "verb": verb, "group": group, "resource": resource},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = self.server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert answer.code == 201, answer.message
        return answer.body["status"]["allowed"]

    def lease(self) -> Manifest:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.account}"
        answer = self.server.request("GET", path)
        assert answer.code == 200, answer.message
        return answer.body


@dataclass(frozen=True)
class Team:
    """A namespace with a pool and a deployment, whose runs get as far as their Job."""

    server: ApiServer
    name: str

    def clear(self) -> None:
        """Leave nothing that a list over all namespaces would show."""
        done = self.server.kubectl("delete", "kapstan,jobs", "--all", "--wait=false", "-n", self.name)
        assert done.returncode == 0, done.stderr

    def make(self) -> Team:
        make_namespace(self.server, self.name)
        self.apply("WorkPool", "pool", {})
        self.apply(
            "Deployment",
            "etl",
            {"flow": {"entrypoint": "etl:main", "image": "etl:1"}, "workPoolRef": {"name": "pool"}},
        )
        return self

    def apply(self, kind: str, name: str, spec: Manifest) -> None:
        manifest = {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": self.name}, "spec": spec}
        done = self.server.kubectl("apply", "-f", "-", text=json.dumps(manifest))
        assert done.returncode == 0, done.stderr

    def run(self, name: str) -> None:
        self.apply("FlowRun", name, {"deploymentRef": {"name": "etl"}})

    def jobs(self, run: str) -> list[str]:
        path = f"/apis/batch/v1/namespaces/{self.name}/jobs"
        answer = self.server.request("GET", path, query=f"&labelSelector=kapstan.dev/flow-run%3D{run}")
        assert answer.code == 200, answer.message
        return [job["metadata"]["name"] for job in answer.body["items"]]

    def get(self, run: str) -> Manifest:
        answer = self.server.request("GET", f"/apis/{API}/namespaces/{self.name}/flowruns/{run}")
        assert answer.code == 200, answer.message
        return answer.body

    def status(self, run: str) -> Manifest:
        return self.get(run).get("status", {})

    def started(self, run: str) -> Manifest:
        """Wait until its Job was made and that was answered; the status."""
        return until(lambda: self.status(run), lambda status: status.get("phase") == "Pending", f"start of {run}")


def make_namespace(server: ApiServer, name: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    done = server.kubectl("apply", "-f", "-", text=json.dumps(manifest))
    assert done.returncode == 0, done.stderr


MakeTeam = Callable[[str], Team]
Install = Callable[..., Installation]


def installer(server: ApiServer, redis: RedisServer, minio: Minio, home: Path) -> Iterator[Install]:
    """Installs the chart into a namespace with further values; its processes are gone afterwards."""
    installed: list[Installation] = []

    def install(namespace: str, *values: str) -> Installation:
        make_namespace(server, namespace)
        services = (
            f"redis.url={redis.url}",
            f"s3.endpoint={minio.url}",
            f"s3.bucket={BUCKET}",
            f"s3.accessKey={ACCESS_KEY}",
            f"s3.secretKey={SECRET_KEY}",
        )
        manifests = rendered(namespace, "crds.install=false", *services, *values)
        installed.append(Installation(server, namespace, manifests, home / namespace))
        return installed[-1]

    yield install
    for one in installed:
        one.close()


def signing_key(namespace: str) -> str:
    """A value that gives ``namespace`` a key."""
    return f"signing.keys.{namespace}={base64.b64encode(os.urandom(32)).decode()}"
