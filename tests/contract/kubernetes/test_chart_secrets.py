"""Secrets of one's own: what the chart reads, mounts and no longer writes."""

from __future__ import annotations

import json

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import DEV_SERVICES, RELEASE, Manifest, rendered, signing_key

SERVED = ("namespaces={team,other}", signing_key("team"), signing_key("other"))
PORTS = ("networkPolicy.redisPorts={6379}", "networkPolicy.s3Ports={443}")
SERVICES = ("redis.url=redis://r", "s3.endpoint=http://s", "s3.secretKey=shared-secret")


def secrets(manifests: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    """(namespace, name) -> keys."""
    return {
        (one["metadata"].get("namespace", ""), one["metadata"]["name"]): set(one["data"])
        for one in manifests
        if one["kind"] == "Secret"
    }


def operator(manifests: list[Manifest]) -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == "Deployment")
    return found["spec"]["template"]["spec"]


def read(pod: Manifest) -> set[str]:
    """Names of the Secrets that the operator's pod is given."""
    (container,) = pod["containers"]
    mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    return mounted | {source["secretRef"]["name"] for source in container["envFrom"]}


def test_with_secrets_of_ones_own_the_chart_writes_none() -> None:
    mine = ("redis.existingSecret=my-redis", "s3.existingSecret=my-s3", "signing.existingSecret=my-keys")
    manifests = rendered("system", "namespaces={team,other}", *mine, *PORTS)
    assert secrets(manifests) == {}
    assert read(operator(manifests)) == {"my-redis", "my-s3", "my-keys"}


def test_one_secret_of_ones_own_leaves_the_rest_to_the_chart() -> None:
    manifests = rendered("system", *SERVED, "redis.existingSecret=my-redis", "s3.endpoint=http://s", *PORTS)
    written = secrets(manifests)
    assert set(written) == {("", f"{RELEASE}-operator"), ("", f"{RELEASE}-signing-keys")}
    assert "KAPSTAN_REDIS_URL" not in written["", f"{RELEASE}-operator"]
    assert read(operator(manifests)) == {"my-redis", f"{RELEASE}-operator", f"{RELEASE}-signing-keys"}


def test_a_namespace_with_credentials_of_its_own_is_given_none_of_the_shared_ones() -> None:
    manifests = rendered("system", *SERVED, *SERVICES, "credentials.team=team-services")
    assert ("team", "kapstan-workload") not in secrets(manifests)
    assert ("other", "kapstan-workload") in secrets(manifests)
    pod = operator(manifests)
    assert "team-services" in read(pod)
    (container,) = pod["containers"]
    assert "--credentials=/etc/kapstan/credentials" in container["args"]
    assert "/etc/kapstan/credentials/team" in {mount["mountPath"] for mount in container["volumeMounts"]}


ROLE = r"eks\.amazonaws\.com/role-arn=arn:aws:iam::1:role/kapstan"


def test_a_store_without_keys_has_identities_and_no_keys(api_server: ApiServer) -> None:
    values = (
        "redis.url=redis://r",
        "s3.endpoint=https://s3.example",
        "s3.credentials=aws",
        f"operator.serviceAccount.annotations.{ROLE}",
        "workloadServiceAccount.name=flows",
        f"workloadServiceAccount.annotations.{ROLE}",
    )
    manifests = rendered("system", *SERVED, *values)
    for place in (("", f"{RELEASE}-operator"), ("team", "kapstan-workload"), ("other", "kapstan-workload")):
        told = secrets(manifests)[place]
        assert "KAPSTAN_S3_CREDENTIALS" in told
        assert not told & {"KAPSTAN_S3_ACCESS_KEY", "KAPSTAN_S3_SECRET_KEY"}
    accounts = {
        (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
        for one in manifests
        if one["kind"] == "ServiceAccount"
    }
    assert set(accounts) == {("", f"{RELEASE}-operator"), ("team", "flows"), ("other", "flows")}
    for account in accounts.values():
        assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/kapstan"}
        assert account["automountServiceAccountToken"] is False
        done = api_server.kubectl(
            "create",
            "--dry-run=server",
            "-n",
            "default",
            "-f",
            "-",
            text=json.dumps(account | {"metadata": account["metadata"] | {"namespace": "default"}}),
        )
        assert done.returncode == 0, done.stderr


def test_keys_and_an_identity_exclude_each_other() -> None:
    with pytest.raises(CommandFailed, match=r"s3\.credentials=aws takes no keys"):
        rendered("system", *SERVED, *SERVICES, "s3.credentials=aws")
    with pytest.raises(CommandFailed, match=r"s3\.credentials=aws takes no keys"):
        rendered("system", *SERVED, *DEV_SERVICES, "s3.credentials=aws")


def test_development_services_bring_their_own_secrets() -> None:
    with pytest.raises(CommandFailed, match=r"devServices\.enabled makes its own Secrets"):
        rendered("system", *SERVED, *DEV_SERVICES, "redis.existingSecret=mine")
