"""Row cluster: from a FlowRun's creation to its first line of user code, beside a bare Job of the same image.

The product is installed as the end-to-end tests install it. Both pods print the time at which user code runs; the
node's clock must be this machine's, so a borrowed cluster is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.measuring import Bench, Line, NotApplicable, in_turns
from tests.cluster import provider
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress
from tests.e2e import product

NAMESPACE = "kapstan-bench"
KIND = "flow run"
GROUP, VERSION = "kapstan.dev", "v1alpha1"
MOMENT = "print('user code at', time.time(), flush=True)"
FLOW = f"import time\nfrom kapstan import flow\n\n@flow\ndef moment() -> None:\n    {MOMENT}\n"
DOCKERFILE = "ARG RUNTIME\nFROM ${RUNTIME}\nCOPY moment.py ./\n"


def start(bench: Bench) -> Iterator[Line]:
    if not bench.cluster:
        raise NotApplicable("needs --cluster, and a cluster that is up: `make cluster-up`")
    try:
        with provider.session(False, Progress()) as cluster:
            if not cluster.has_node:
                raise NotApplicable("a borrowed cluster's clock is not this machine's")
            figures = _on(cluster, bench)
    except ClusterUnavailable as unavailable:
        raise NotApplicable(str(unavailable)) from unavailable
    run, job = ([1e3 * value for value in figures[way]] for way in ("FlowRun", "Job"))
    yield Line("cluster", "FlowRun created, until user code runs", KIND, "ms", run, "bare Job of the same image", job)


def _on(cluster: Cluster, bench: Bench) -> dict[str, list[float]]:
    from kubernetes import client, config

    image = _prepare(cluster, bench.folder)
    config.load_kube_config(config_file=str(cluster.kubeconfig))
    runs, jobs = client.CustomObjectsApi(), client.BatchV1Api()
    for plural, manifest in (("workpools", _pool()), ("deployments", _deployment(image))):
        runs.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural, manifest)
    names = (f"bench-{number}" for number in range(10_000))

    def flow_run() -> float:
        name = next(names)
        created = time.time()
        runs.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, "flowruns", _flow_run(name))
        _await(cluster, f"flowruns.{GROUP}/{name}", "jsonpath={.status.phase}=Completed")
        status = cluster.get(f"flowruns.{GROUP}", name, "-n", NAMESPACE)["status"]
        return _moment(cluster, status["attempts"][-1]["job"]) - created

    def bare_job() -> float:
        name = next(names)
        created = time.time()
        jobs.create_namespaced_job(NAMESPACE, _job(name, image))
        _await(cluster, f"job/{name}", "condition=complete")
        return _moment(cluster, name) - created

    ways: dict[str, Callable[[], float]] = {"FlowRun": flow_run, "Job": bare_job}
    try:
        in_turns(1, ways)  # the first pod of an image is slow
        return in_turns(bench.rounds, ways)
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _prepare(cluster: Cluster, folder: Path) -> str:
    """The product installed for a namespace of the bench's own, and an image with the flow; its name."""
    product.make_namespaces(cluster)
    product.load_images(cluster, Progress())
    product.make_namespace(cluster, NAMESPACE)
    product.install(cluster, NAMESPACE)
    context = folder / "moment"
    context.mkdir()
    (context / "moment.py").write_text(FLOW)
    (context / "Dockerfile").write_text(DOCKERFILE)
    return cluster.load_image(
        context / "Dockerfile",
        tag="kapstan.test/moment:bench",
        context=context,
        build_args={"RUNTIME": product.image(cluster, "runtime")},
    )


def _await(cluster: Cluster, what: str, condition: str) -> None:
    cluster.kubectl("wait", what, "-n", NAMESPACE, f"--for={condition}", "--timeout=60s", timeout=70)


def _moment(cluster: Cluster, job: str) -> float:
    """The Unix time that the pod of ``job`` printed, once the node knows of it, which is after a run is Completed."""
    pods = ("-n", NAMESPACE, "-l", f"batch.kubernetes.io/job-name={job}")
    cluster.kubectl("wait", "pod", *pods, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", timeout=70)
    log = cluster.kubectl("logs", *pods, "--tail=-1")
    found = re.search(r"user code at ([0-9.]+)", log)
    assert found is not None, log
    return float(found[1])


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _pool() -> dict[str, Any]:
    return _resource("WorkPool", "bench", {"type": "kubernetes"})


def _deployment(image: str) -> dict[str, Any]:
    flow = {"entrypoint": "moment:moment", "image": image}
    return _resource("Deployment", "moment", {"flow": flow, "workPoolRef": {"name": "bench"}})


def _flow_run(name: str) -> dict[str, Any]:
    return _resource("FlowRun", name, {"deploymentRef": {"name": "moment"}})


def _job(name: str, image: str) -> dict[str, Any]:
    container = {
        "name": "bare",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", f"import time; {MOMENT}"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}
