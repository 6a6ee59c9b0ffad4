"""NetworkPolicies of the chart: what a real API server takes, and who reaches whom by them.

Traffic is decided here by the rules of `networking.k8s.io/v1`, as far as the chart uses them, for every shape of the
values. `tests/e2e/test_network.py` tries one shape on a network that enforces policies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import DEV_SERVICES, RELEASE, Manifest, make_namespace, rendered, signing_key

SYSTEM = "network-system"
NAMESPACES = ("namespaces={team,other}", signing_key("team"), signing_key("other"))
DEV = (*NAMESPACES, *DEV_SERVICES)
OUTSIDE = (*NAMESPACES, "redis.url=rediss://u:p@redis.example:6380/0", "s3.endpoint=https://s3.example")


@dataclass(frozen=True)
class Peer:
    """A pod, or with no namespace somebody outside the cluster."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict[str, str])


def component(name: str) -> Peer:
    return Peer(SYSTEM, {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": name})


OPERATOR, REDIS, MINIO = component("operator"), component("redis"), component("minio")
FLOW = Peer("team", {"app.kubernetes.io/managed-by": "kapstan", "kapstan.dev/flow-run": "nightly"})
WORKER = Peer("other", {"app.kubernetes.io/managed-by": "kapstan", "kapstan.dev/task-worker": "shop"})
PROGRAM = Peer("team", {"app": "shop"})
"""Delays tasks; not made by Kapstan."""
STRANGER = Peer("elsewhere", {"app": "any"})
WORLD = Peer()


def policies(manifests: list[Manifest]) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == "NetworkPolicy"]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    assert all(one["operator"] == "In" for one in selector.get("matchExpressions", []))
    return exact and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))


def is_peer(rule: Manifest, peer: Peer, own: str) -> bool:
    if "ipBlock" in rule:
        assert rule["ipBlock"] == {"cidr": "0.0.0.0/0"}
        return not peer.namespace
    if not peer.namespace:
        return False
    there = {"kubernetes.io/metadata.name": peer.namespace}
    in_namespace = selects(rule["namespaceSelector"], there) if "namespaceSelector" in rule else peer.namespace == own
    return in_namespace and selects(rule.get("podSelector", {}), peer.labels)


def lets(found: list[Manifest], way: str, pod: Peer, peer: Peer, port: int, protocol: str) -> bool:
    """Whether the policies of ``pod`` let it connect to (or be reached by) ``peer``; without one everybody may."""
    mine = [
        one["spec"]
        for one in found
        if pod.namespace == one["metadata"].get("namespace", SYSTEM)
        and selects(one["spec"]["podSelector"], pod.labels)
        and way in one["spec"]["policyTypes"]
    ]
    key, side = ("egress", "to") if way == "Egress" else ("ingress", "from")
    return not mine or any(
        {"protocol": protocol, "port": port} in rule["ports"]
        and (side not in rule or any(is_peer(one, peer, pod.namespace) for one in rule[side]))
        for spec in mine
        for rule in spec[key]
    )


def reaches(found: list[Manifest], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    return lets(found, "Egress", source, target, port, protocol) and lets(
        found, "Ingress", target, source, port, protocol
    )


@pytest.fixture(scope="module")
def dev() -> list[Manifest]:
    return policies(rendered(SYSTEM, *DEV))


@pytest.fixture(scope="module")
def outside() -> list[Manifest]:
    return policies(rendered(SYSTEM, *OUTSIDE))


def test_what_is_needed_is_let_through(dev: list[Manifest]) -> None:
    for pod in (OPERATOR, FLOW, WORKER):
        assert reaches(dev, pod, REDIS, 6379)
        assert reaches(dev, pod, MINIO, 9000)
        assert reaches(dev, pod, Peer("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP")
    assert reaches(dev, PROGRAM, REDIS, 6379)
    for port in (443, 6443):
        assert reaches(dev, OPERATOR, WORLD, port)


def test_the_rest_is_not(dev: list[Manifest]) -> None:
    for pod in (FLOW, WORKER, OPERATOR):
        assert not reaches(dev, pod, WORLD, 80)
        assert not reaches(dev, pod, WORLD, 6379), "only Redis of this release"
        assert not reaches(dev, STRANGER, pod, 8080)
    for pod in (FLOW, WORKER):
        assert not reaches(dev, pod, WORLD, 6443), "the API server is the operator's"
        assert not reaches(dev, OPERATOR, pod, 8080)
    for service, port in ((REDIS, 6379), (MINIO, 9000)):
        assert not reaches(dev, STRANGER, service, port)
        assert not reaches(dev, service, WORLD, 443)
    assert not reaches(dev, FLOW, MINIO, 9001)


def test_services_outside_are_reached_at_their_ports(outside: list[Manifest]) -> None:
    for pod in (OPERATOR, FLOW, WORKER):
        assert reaches(outside, pod, WORLD, 6380)
        assert reaches(outside, pod, WORLD, 443)
        assert not reaches(outside, pod, WORLD, 6379)


def test_user_code_reaches_what_the_values_name() -> None:
    further = (
        "networkPolicy.workloadEgress[0].to[0].ipBlock.cidr=0.0.0.0/0",
        "networkPolicy.workloadEgress[0].ports[0].port=5432",
        "networkPolicy.workloadEgress[0].ports[0].protocol=TCP",
    )
    found = policies(rendered(SYSTEM, *OUTSIDE, *further))
    assert reaches(found, FLOW, WORLD, 5432)
    assert not reaches(found, OPERATOR, WORLD, 5432)


def test_a_cluster_wide_release_serves_programs_of_every_namespace() -> None:
    found = policies(rendered(SYSTEM, *DEV, "clusterWide=true"))
    assert reaches(found, STRANGER, REDIS, 6379)


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis://r", {6379}),
        ("rediss://u:p@r:7000/0", {7000}),
        (r"redis+sentinel://u:p@a:26379\,b\,c:1/mymaster", {26379, 1}),
        ("redis://u:p%40x@[fd00::1]:6390", {6390}),
    ],
)
def test_ports_are_read_from_addresses(url: str, ports: set[int]) -> None:
    found = policies(rendered(SYSTEM, *NAMESPACES, f"redis.url={url}", "s3.endpoint=http://s:9000"))
    (workloads,) = (one for one in found if one["metadata"].get("namespace") == "team")
    assert {one["port"] for rule in workloads["spec"]["egress"] for one in rule["ports"]} == ports | {53, 9000}


def test_ports_that_stand_in_a_secret_must_be_named() -> None:
    mine = (*NAMESPACES, "redis.existingSecret=mine", "s3.endpoint=http://s:9000")
    with pytest.raises(CommandFailed, match=r"name them in networkPolicy\.redisPorts"):
        rendered(SYSTEM, *mine)
    found = policies(rendered(SYSTEM, *mine, "networkPolicy.redisPorts={6399}"))
    assert reaches(found, FLOW, WORLD, 6399)


def test_they_can_be_left_out() -> None:
    assert policies(rendered(SYSTEM, *DEV, "networkPolicy.enabled=false")) == []


def test_the_api_server_takes_them(api_server: ApiServer, dev: list[Manifest], outside: list[Manifest]) -> None:
    for namespace in (SYSTEM, "team", "other"):
        make_namespace(api_server, namespace)
    for one in (*dev, *outside):
        words = ("create", "--dry-run=server", "-n", one["metadata"].get("namespace", SYSTEM), "-f", "-")
        done = api_server.kubectl(*words, text=json.dumps(one))
        assert done.returncode == 0, done.stderr
