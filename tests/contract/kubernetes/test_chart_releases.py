"""Renderings without a cluster, and several releases in one: helm itself against a real API server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract import apiserver
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import CHART, DEV_SERVICES, helm, make_namespace, rendered, signing_key

PASSWORDS = DEV_SERVICES[1:]
SERVICES = ("redis.url=redis://r:6379", "s3.endpoint=http://s:9000")
ONCE = ("crds.install=false", "userRoles.install=false")


@pytest.fixture(scope="module")
def fresh(api_server: ApiServer) -> Iterator[ApiServer]:
    """An API server that nothing was installed on; ``api_server`` has made sure that the programs are there."""
    with apiserver.running() as started:
        make_namespace(started, "kube-system")
        yield started


class Releases:
    """Installs the chart under several names; what it made is gone afterwards, but for CRDs and keys."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._made: list[tuple[str, str]] = []

    def install(self, name: str, namespace: str, *values: str) -> subprocess.CompletedProcess[str]:
        """``helm upgrade --install``, served namespaces made beforehand."""
        make_namespace(self._server, namespace)
        words = [word for value in values for word in ("--set", value)]
        done = self._helm("upgrade", "--install", name, str(CHART), "-n", namespace, *words)
        if done.returncode == 0 and (name, namespace) not in self._made:
            self._made.append((name, namespace))
        return done

    def installed(self, name: str, namespace: str, *values: str) -> None:
        done = self.install(name, namespace, *values)
        assert done.returncode == 0, done.stderr

    def refused(self, name: str, namespace: str, *values: str) -> str:
        done = self.install(name, namespace, *values)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        answer = self._server.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        assert answer.code == 200, answer.message
        return answer.body["data"]

    def _helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [helm(), f"--kubeconfig={self._server.kubeconfig()}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def close(self) -> None:
        for name, namespace in reversed(self._made):
            self._helm("uninstall", name, "-n", namespace)


@pytest.fixture
def releases(fresh: ApiServer) -> Iterator[Releases]:
    for name in ("team", "other"):
        make_namespace(fresh, name)
    made = Releases(fresh)
    yield made
    made.close()


@pytest.mark.parametrize("service", ["redis", "minio"])
def test_without_a_cluster_no_password_is_invented(service: str) -> None:
    """A new one at each rendering would shut out whoever was started with the one before."""
    given = [value for value in PASSWORDS if f".{service}." not in value]
    with pytest.raises(CommandFailed, match=rf"devServices\.{service}\.password is not given"):
        rendered("system", "devServices.enabled=true", signing_key("system"), *given)


def test_a_rendering_without_a_cluster_is_the_same_each_time() -> None:
    key = signing_key("system")
    first, second = (rendered("system", *DEV_SERVICES, key) for _ in range(2))
    assert first == second


def test_a_cluster_keeps_the_passwords_that_were_made_in_it(releases: Releases) -> None:
    values = ("namespaces={team}", "devServices.enabled=true")
    releases.installed("kapstan", "one", *values)
    before = releases.secret("one", "kapstan-dev-services")
    assert before["redis-password"] != before["minio-password"]
    releases.installed("kapstan", "one", *values)
    assert releases.secret("one", "kapstan-dev-services") == before


def test_what_a_cluster_has_once_is_left_to_the_first_release(releases: Releases) -> None:
    releases.installed("kapstan", "one", "namespaces={team}", *SERVICES)
    second = ("kapstan", "two", "namespaces={other}", *SERVICES)
    message = releases.refused(*second)
    assert "belongs to the release kapstan in namespace one" in message
    assert "crds.install=false" in message
    assert "userRoles.install=false" in releases.refused(*second, "crds.install=false")
    releases.installed(*second, *ONCE)
    releases.installed("kapstan", "one", "namespaces={team}", *SERVICES)  # and the first one is upgraded as before


@pytest.mark.parametrize("secrets", [SERVICES, ("redis.existingSecret=r", "s3.existingSecret=s")])
def test_no_two_releases_serve_one_namespace(releases: Releases, secrets: tuple[str, ...]) -> None:
    ports = ("networkPolicy.redisPorts={6379}", "networkPolicy.s3Ports={9000}")
    releases.installed("kapstan", "one", "namespaces={team}", *secrets, *ports)
    message = releases.refused("second", "two", "namespaces={other,team}", *secrets, *ports, *ONCE)
    assert "team is served by the operator kapstan-operator in namespace one already" in message
    message = releases.refused("second", "two", "clusterWide=true", "namespaces={other}", *secrets, *ports, *ONCE)
    assert "team is served by the operator kapstan-operator in namespace one already" in message


def test_beside_a_release_for_the_whole_cluster_there_is_no_other(releases: Releases) -> None:
    releases.installed("kapstan", "one", "clusterWide=true", "namespaces={team}", *SERVICES)
    releases.installed("kapstan", "one", "clusterWide=true", "namespaces={team}", *SERVICES)
    message = releases.refused("second", "two", "namespaces={other}", *SERVICES, *ONCE)
    assert "every namespace is served by the operator kapstan-operator in namespace one already" in message
