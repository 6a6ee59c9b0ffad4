"""A Redis user for each role, by the chart's values: who is given which, and that the operator, pods and clients do
their work with no more than the rights that `kapstan server acl` prints."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from click.testing import CliRunner
from tests.cluster.errors import CommandFailed
from tests.contract.kubernetes.operators import (
    DEV_SERVICES,
    RELEASE,
    Install,
    Installation,
    MakeTeam,
    Manifest,
    rendered,
    signing_key,
    until,
)
from tests.servers.redis import RedisServer

from kapstan.backend import Backend
from kapstan.cli import cli
from kapstan.errors import ConfigurationError
from kapstan.reconcile.naming import run_id_of
from kapstan.settings import Settings

SERVED = ("namespaces={team,other}", signing_key("team"), signing_key("other"), "s3.endpoint=http://s")
ROLES = ("operator", "worker", "client")
URLS = {role: f"redis://{role}:secret@redis.example:6379/0" for role in ROLES}
OF_URLS = tuple(f"redis.users.{role}.url={url}" for role, url in URLS.items())
OF_SECRETS = tuple(f"redis.users.{role}.existingSecret=my-{role}" for role in ROLES)
PORTS = "networkPolicy.redisPorts={6379}"


def data(manifests: list[Manifest], name: str, namespace: str = "") -> dict[str, str] | None:
    """What a Secret holds; None: it is not made."""
    for one in manifests:
        metadata = one["metadata"]
        if one["kind"] == "Secret" and (metadata["name"], metadata.get("namespace", "")) == (name, namespace):
            return {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
    return None


def operator(manifests: list[Manifest]) -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == "Deployment")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return container


def test_each_is_given_its_own_and_no_other() -> None:
    manifests = rendered("system", *SERVED, *OF_URLS)
    places = [(f"{RELEASE}-operator", "", "operator")]
    for namespace in ("team", "other"):
        places += [("kapstan-workload", namespace, "worker"), ("kapstan-client", namespace, "client")]
    for name, namespace, role in places:
        held = data(manifests, name, namespace)
        assert held is not None
        assert held["KAPSTAN_REDIS_URL"] == URLS[role]
        assert ("KAPSTAN_SIGNING_KEY" in held, "KAPSTAN_S3_ENDPOINT" in held) == (role != "operator", True)
    assert not any("redis" in word for word in operator(manifests)["args"])


def test_without_a_client_there_is_no_secret_of_clients() -> None:
    manifests = rendered("system", *SERVED, *OF_URLS[:2])
    assert data(manifests, "kapstan-client", "team") is None
    assert data(rendered("system", *SERVED, "redis.url=redis://r"), "kapstan-client", "team") is None


def test_secrets_of_ones_own_are_named_and_nothing_else_is_yours_to_write() -> None:
    keys = [f"redis.users.{role}.key=URL_OF_{role}" for role in ("operator", "worker")]
    manifests = rendered("system", *SERVED, *OF_SECRETS, *keys, PORTS)
    for name, namespace in ((f"{RELEASE}-operator", ""), ("kapstan-workload", "team"), ("kapstan-client", "other")):
        held = data(manifests, name, namespace)
        assert held is not None
        assert "KAPSTAN_REDIS_URL" not in held
        assert "KAPSTAN_S3_ENDPOINT" in held
    container = operator(manifests)
    assert "--workload-redis-secret=my-worker/URL_OF_worker" in container["args"]
    (given,) = [entry["valueFrom"] for entry in container["env"] if entry["name"] == "KAPSTAN_REDIS_URL"]
    assert given == {"secretKeyRef": {"name": "my-operator", "key": "URL_OF_operator"}}


def test_where_the_store_is_a_secret_of_ones_own_the_operator_reads_only_what_is_there() -> None:
    mine = ("s3.existingSecret=my-s3", "networkPolicy.s3Ports={443}", PORTS, "s3.endpoint=")
    manifests = rendered("system", *SERVED, *OF_SECRETS[:2], *mine)
    assert data(manifests, f"{RELEASE}-operator") is None
    assert [one["secretRef"]["name"] for one in operator(manifests)["envFrom"]] == ["my-s3"]
    assert data(manifests, "kapstan-workload", "team") is None


def url(role: str, user: str) -> str:
    return f"redis.users.{role}.url=redis://{user}@redis.example:6379/0"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((*OF_URLS, "redis.url=redis://r"), r"leave redis\.url and redis\.existingSecret empty"),
        ((*OF_URLS, "redis.existingSecret=mine"), r"leave redis\.url and redis\.existingSecret empty"),
        ((*OF_URLS, *DEV_SERVICES), r"the Redis of devServices has one user"),
        (OF_URLS[:1], r"redis\.users\.worker has neither url nor existingSecret"),
        (OF_URLS[1:], r"redis\.users\.operator has neither url nor existingSecret"),
        ((url("operator", "a:x"), url("worker", "a:x")), r"operator and redis\.users\.worker are one user"),
        ((*OF_URLS, "redis.users.worker.existingSecret=mine"), r"/redis/users/worker'"),
        ((*OF_URLS[1:], "redis.users.operator.url=redis://redis.example:6379"), r"/redis/users/operator/url'"),
        ((*OF_URLS[1:], url("operator", "nobody")), r"/redis/users/operator/url'"),
        ((*OF_URLS, "redis.users.reader.url=redis://a:b@c"), r"'reader' not allowed"),
        ((*OF_SECRETS, PORTS, "redis.users.worker.key="), r"/redis/users/worker/key'"),
        ((*OF_SECRETS, PORTS, "redis.users.worker.existingSecret=A_B"), r"/redis/users/worker/existingSecret'"),
        (OF_SECRETS, r"name them in networkPolicy\.redisPorts"),
        ((*OF_SECRETS, PORTS, "credentials.team=team-services"), r"those in credentials too"),
        ((*OF_URLS, "s3.existingSecret=mine", "networkPolicy.s3Ports={443}"), r"leave redis\.users\.client empty"),
        ((*OF_URLS[:2], "signing.existingSecret=mine"), r"give redis\.users\.worker\.existingSecret"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: tuple[str, ...], words: str) -> None:
    with pytest.raises(CommandFailed, match=words):
        rendered("system", *SERVED, *values)


TEAMS = ("users-a", "users-b")


@pytest.fixture
def users(operators_redis: RedisServer) -> Iterator[dict[str, str]]:
    """The value for each role's user, with the rights of its role in both namespaces."""
    with operators_redis.client() as client:
        for role in ROLES:
            words = ("server", "acl", "--role", role, "--user", role, *(f"-n{name}" for name in TEAMS))
            line = CliRunner().invoke(cli, words).stdout
            client.execute_command(*shlex.split(line.replace(">PASSWORD", ">secret")))
        yield {role: f"redis://{role}:secret@127.0.0.1:{operators_redis.port}/0" for role in ROLES}
        client.execute_command("ACL", "DELUSER", *ROLES)


def backend(installed: Installation, secret: str, namespace: str) -> Backend:
    held = data(installed.manifests, secret, namespace)
    assert held is not None
    return Backend(Settings.from_env({**held, "KAPSTAN_NAMESPACE": namespace}))


def test_operator_pods_and_clients_do_their_work(install: Install, make_team: MakeTeam, users: dict[str, str]) -> None:
    teams = [make_team(name) for name in TEAMS]
    values = [f"redis.users.{role}.url={url}" for role, url in users.items()]
    keys = [signing_key(name) for name in TEAMS]
    installed = install("users-system", f"namespaces={{{','.join(TEAMS)}}}", "redis.url=", *values, *keys)
    process = installed.start("a").leads()
    for team in teams:
        team.run("r")
        team.started("r")
        pod, client = (backend(installed, f"kapstan-{name}", team.name) for name in ("workload", "client"))
        metadata = team.get("r")["metadata"]
        run_id = run_id_of(metadata["uid"], datetime.fromisoformat(metadata["creationTimestamp"]))
        over: dict[str, Any] = {"state": "COMPLETED", "outcome": "Completed", "attempt": 1, "started": 1.0}
        pod.flow_runs.save(run_id, {**over, "ended": 2.0, "deployment": "etl"})
        until(lambda team=team: team.status("r"), lambda status: status.get("phase") == "Completed", "its end")
        pod.queue.note_end("somebody", {"seen": "it ended"})
        assert client.flow_runs.load(run_id) is not None
        with pytest.raises(ConfigurationError, match="Redis refuses this user"):
            client.queue.note_end("somebody", {"seen": "it ended"})
        pod.close()
        client.close()
    process.ready()
    refused = [line for line in process.output if "refuses this user" in line or "NOPERM" in line]
    assert refused == []
