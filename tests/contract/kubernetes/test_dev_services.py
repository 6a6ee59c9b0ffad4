"""`devServices.*.storage`: Redis and MinIO keep what they hold on a volume that the API server takes."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import DEV_SERVICES, Manifest, make_namespace, rendered, signing_key

NAMESPACE = "dev-services"
SIZES = {"redis": "1Gi", "minio": "20Gi"}


def service(name: str, *values: str) -> Manifest:
    """The StatefulSet of one development service."""
    manifests = rendered(NAMESPACE, *DEV_SERVICES, signing_key(NAMESPACE), *values)
    (found,) = (
        one for one in manifests if one["kind"] == "StatefulSet" and one["metadata"]["name"] == f"kapstan-{name}"
    )
    return found


def stored(name: str, *values: str) -> Manifest:
    return service(name, f"devServices.{name}.storage={SIZES[name]}", *values)


def dry_run(server: ApiServer, manifest: Manifest) -> subprocess.CompletedProcess[str]:
    make_namespace(server, NAMESPACE)
    words = ("create", "--dry-run=server", "-n", NAMESPACE, "-o", "json", "-f", "-")
    return server.kubectl(*words, text=json.dumps(manifest))


def taken(server: ApiServer, manifest: Manifest) -> Manifest:
    """What the API server would make of it, defaults included."""
    done = dry_run(server, manifest)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def claim_of(name: str, spec: Manifest) -> Manifest:
    """The claim as the StatefulSet's controller makes it."""
    metadata = {"name": f"data-kapstan-{name}-0"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def data_of(workload: Manifest) -> str:
    """Where the container has the volume called data."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "data")
    assert not mount.get("readOnly")
    return mount["mountPath"]


def volumes_of(workload: Manifest) -> dict[str, Manifest]:
    return {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("name", SIZES)
def test_with_storage_it_claims_a_volume_of_that_size_and_no_two_pods_share_it(
    api_server: ApiServer, name: str
) -> None:
    workload = taken(api_server, stored(name))["spec"]
    (claim,) = workload["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["resources"] == {"requests": {"storage": SIZES[name]}}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in claim["spec"], "the cluster's default class"
    # A StatefulSet of one ends its pod before it makes the next, and leaves the claim when it goes.
    assert workload["replicas"] == 1
    assert workload["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert taken(api_server, claim_of(name, claim["spec"]))["spec"]["resources"]["requests"] == {"storage": SIZES[name]}


@pytest.mark.parametrize("name", SIZES)
def test_the_claim_is_where_the_service_writes_and_it_may_write_there(api_server: ApiServer, name: str) -> None:
    workload = taken(api_server, stored(name))
    assert "data" not in volumes_of(workload), "the pod's volume would stand before the claim"
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["fsGroup"] == 65532  # the group of the images' user
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"], "what is written elsewhere would be an error"
    assert data_of(workload) == folder_of(name, container)


def folder_of(name: str, container: Manifest) -> str:
    """The folder that the service is told to keep its data in."""
    if name == "minio":
        words = container["command"][-1].split()
        return words[words.index("server") + 1]
    program, path = container["command"]
    assert program == "valkey-server"
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "configuration")
    assert path == f"{mount['mountPath']}/redis.conf"
    manifests = rendered(NAMESPACE, *DEV_SERVICES, signing_key(NAMESPACE))
    (secret,) = (one for one in manifests if one["metadata"]["name"] == "kapstan-dev-services")
    options = dict(line.split(" ", 1) for line in secret["stringData"]["redis.conf"].splitlines())
    assert options["appendonly"] == "yes", "nothing would be written"
    return options["dir"]


@pytest.mark.parametrize("name", SIZES)
def test_without_storage_what_it_holds_goes_with_the_pod(api_server: ApiServer, name: str) -> None:
    (other,) = SIZES.keys() - {name}
    workload = taken(api_server, service(name, f"devServices.{other}.storage=1Gi"))
    assert "volumeClaimTemplates" not in workload["spec"]
    assert volumes_of(workload)["data"] == {"name": "data", "emptyDir": {}}
    assert data_of(workload) == "/data"


@pytest.mark.parametrize("name", SIZES)
def test_the_storage_class_is_the_one_that_is_named(api_server: ApiServer, name: str) -> None:
    (claim,) = taken(api_server, stored(name, "devServices.storageClassName=fast"))["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"


@pytest.mark.parametrize("size", ["1Gi", "1.5Gi", "0.5Gi", "500Mi", "2T"])
def test_sizes_of_kubernetes_are_taken(api_server: ApiServer, size: str) -> None:
    (claim,) = service("redis", f"devServices.redis.storage={size}")["spec"]["volumeClaimTemplates"]
    taken(api_server, claim_of("redis", claim["spec"]))


@pytest.mark.parametrize("size", ["much", "1GB", "-1Gi", "1 Gi", "1.2.3Gi", "0Gi"])
def test_what_is_no_size_is_refused_by_the_chart_as_it_would_be_by_the_api_server(
    api_server: ApiServer, size: str
) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    assert dry_run(api_server, claim_of("redis", spec)).returncode != 0
    with pytest.raises(CommandFailed, match="/devServices/redis/storage"):
        service("redis", f"devServices.redis.storage={size}")
