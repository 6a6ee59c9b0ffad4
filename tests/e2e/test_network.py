"""The policies of the chart on a network that enforces them: what they let through, what they refuse, a run under them.

Every connection is made from a pod, by Python. Before the policies are enforced all of them succeed, so one that is
refused afterwards is refused by a policy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.e2e import product
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening

pytestmark = pytest.mark.node

REACHED = """
import json, socket, sys
def reached(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False
print(json.dumps([reached(host, port) for host, port in json.loads(sys.argv[1])]))
"""
REDIS = (f"{product.RELEASE}-redis.{product.NAMESPACE}.svc", 6379)
STORE = (f"{product.RELEASE}-minio.{product.NAMESPACE}.svc", 9000)
API_SERVER = ("kubernetes.default.svc", 443)
HELD = "policies-after-1"
Address = tuple[str, int]


def pod(image: str, namespace: str, name: str) -> dict[str, Any]:
    """A pod that Kapstan did not make. It listens on the port of Redis."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "listens",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "http.server", "6379"],
        "securityContext": closed | {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    metadata = {"name": name, "namespace": namespace, "labels": {"test": "network"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def reached(installed: Installed, source: tuple[str, str], targets: list[Address]) -> dict[Address, bool]:
    """Which of ``targets`` a pod (namespace, name) can connect to."""
    namespace, name = source
    words = ("exec", "-n", namespace, name, "--", "python3", "-c", REACHED, json.dumps(targets))
    return dict(zip(targets, json.loads(installed.cluster.kubectl(*words)), strict=True))


def address(installed: Installed, namespace: str, *selector: str) -> tuple[str, str]:
    """Name and address of the pod, once it is ready: before that the agent does not know it either."""
    ready = ("--for=condition=Ready", "pods", "-n", namespace, *selector, "--timeout=60s")
    installed.cluster.kubectl("wait", *ready, timeout=70)
    (found,) = installed.cluster.get("pods", "-n", namespace, *selector)["items"]
    return str(found["metadata"]["name"]), str(found["status"]["podIP"])


def test_policies_refuse_what_they_should_and_runs_go_on(installed: Installed, tmp_path: Path) -> None:
    cluster, team = installed.cluster, installed.namespace
    others = [pod(installed.image, "default", "stranger"), pod(installed.image, team, "program")]
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": others}))
    code = {"entrypoint": "deaths.py:loop", "image": installed.image}
    installed.apply("Deployment", "policies", {"flow": code, "workPoolRef": {"name": "pool"}})
    installed.deploy("squares", "sum_of_squares")
    try:
        with listening(installed, tmp_path) as sink:
            sink.hold(HELD)
            installed.run("policies", "policies", parameters={"sink": sink.url, "name": "policies"})
            sink.wait("returned", HELD)
            url = urlsplit(sink.url)
            assert url.hostname is not None
            assert url.port is not None
            _try(installed, (url.hostname, url.port))
            sink.release(HELD)
            installed.wait("flowruns", "policies", ".status.phase", "Completed")
    finally:
        for one in others:
            cluster.kubectl("delete", "pod", one["metadata"]["name"], "-n", one["metadata"]["namespace"])


def _try(installed: Installed, this_machine: Address) -> None:
    flow = (installed.namespace, address(installed, installed.namespace, "-l", "kapstan.dev/flow-run=policies")[0])
    operator, of_operator = address(installed, product.NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    stranger, program = ("default", "stranger"), (installed.namespace, "program")
    near = (address(installed, *program[:1], "-l", "test=network")[1], 6379)
    far = (address(installed, "default", "-l", "test=network")[1], 6379)
    allowed: dict[tuple[str, str], list[Address]] = {
        flow: [REDIS, STORE, this_machine],
        (product.NAMESPACE, operator): [REDIS, STORE, API_SERVER],
        program: [REDIS, STORE, API_SERVER, far],
        stranger: [API_SERVER, near],
    }
    refused: dict[tuple[str, str], list[Address]] = {
        flow: [API_SERVER, far, near, (of_operator, 8080)],
        (product.NAMESPACE, operator): [far, near],
        program: [(of_operator, 8080)],
        stranger: [REDIS, STORE, (of_operator, 8080)],
    }
    tried = {source: [*allowed[source], *refused[source]] for source in allowed}
    before = {source: reached(installed, source, targets) for source, targets in tried.items()}
    assert all(all(found.values()) for found in before.values()), before
    with installed.cluster.policies():
        for source, targets in tried.items():
            expected = {target: target in allowed[source] for target in targets}
            assert reached(installed, source, targets) == expected, source
        installed.run("under-policies", "squares", parameters={"count": 2})
        installed.wait("flowruns", "under-policies", ".status.phase", "Completed")
