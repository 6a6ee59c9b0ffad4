"""Pure manifests of what executes: a flow run's attempt as a Job, a TaskWorker as a Deployment of apps/v1.

`launcher` sends what is made here. The same request gives the same manifest; nothing is looked up. Every pod fits
Pod Security `restricted` (`pod_security`), has no token of the API server and none of its service variables, whatever a
pod template says; the rest of a pod is the template's to change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple, cast

from kapstan.cluster.kubernetes import pod_security
from kapstan.cluster.kubernetes.merge import merged
from kapstan.errors import InvalidResource
from kapstan.ports import JobRequest, Manifest, WorkersRequest
from kapstan.ports.launch import SESSION, FlowRunLaunch, WorkerLaunch
from kapstan.resources import Deployment, TaskWorker, WorkPool
from kapstan.resources.base import API_VERSION
from kapstan.resources.labels import (
    ATTEMPT_LABEL,
    DEPLOYMENT_LABEL,
    FLOW_RUN_LABEL,
    MANAGED,
    MANAGED_LABEL,
    OWNER_UID,
    TASK_WORKER_LABEL,
    WORK_POOL_LABEL,
)

WORKLOAD_SECRET = "kapstan-workload"  # noqa: S105  (the name of a Secret)
FLOW_CONTAINER, WORKER_CONTAINER = "flow", "worker"
REDIS_URL = "KAPSTAN_REDIS_URL"

TEMPLATE_HASH = "kapstan.dev/template-hash"

HOME = "/home/kapstan"
READY_FILE = "/tmp/kapstan-ready"  # noqa: S108  (the pod's own volume)
FLOW_GRACE_SECONDS = 30
DRAIN_MARGIN_SECONDS = 15
"""What a worker needs beyond its drain timeout to give back what it did not finish."""

_CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_SECURITY: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


class SecretKey(NamedTuple):
    """A value in a Secret of the pod's namespace."""

    name: str
    key: str


def job(request: JobRequest, *, restricted: bool = True, redis: SecretKey | None = None) -> Manifest:
    """The Job of one attempt.

    Args:
        restricted: hold the pod to Pod Security `restricted`, whatever the pool's template says.
        redis: where the address of Redis stands; None: in ``WORKLOAD_SECRET``.

    Raises:
        InvalidResource: the Deployment names no image, which a pool of type kubernetes needs; or the pool's template
            asks for more than it may.
    """
    deployment, pool = Deployment.from_dict(request.deployment), WorkPool.from_dict(request.pool)
    flow = deployment.spec.flow
    if flow.image is None:
        problem = f"image is missing: WorkPool {pool.metadata.name!r} starts pods; name the image with the flow's code"
        raise InvalidResource([("spec.flow.image", problem)], kind="Deployment", name=deployment.metadata.name)
    labels = {
        MANAGED_LABEL: MANAGED,
        FLOW_RUN_LABEL: request.run.name,
        ATTEMPT_LABEL: str(request.attempt),
        DEPLOYMENT_LABEL: deployment.metadata.name,
        WORK_POOL_LABEL: pool.metadata.name,
    }
    launch = FlowRunLaunch.of(request, flow.entrypoint, deployment.metadata.name)
    container = _container(FLOW_CONTAINER, flow.image, launch, redis)
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"  # what it logged last is evidence of an effect
    spec: Manifest = {"terminationGracePeriodSeconds": FLOW_GRACE_SECONDS, "containers": [container]}
    if pool.spec.service_account_name:
        spec["serviceAccountName"] = pool.spec.service_account_name
    if pool.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in pool.spec.image_pull_secrets]
    template = _pod_template(labels, request.uid, spec, pool.spec.pod_template, restart="Never")
    if restricted:
        _hold_to_the_floor(template, "WorkPool", pool.metadata.name)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.job,
            "namespace": request.run.namespace,
            "labels": labels,
            "ownerReferences": [_owner("FlowRun", request.run.name, request.uid)],
        },
        "spec": {
            "backoffLimit": 0,  # a further attempt is the operator's decision, after it has read the run's journal
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": pool.spec.ttl_seconds_after_finished,
            "template": template,
        },
    }


def app_deployment(request: WorkersRequest, *, restricted: bool = True, redis: SecretKey | None = None) -> Manifest:
    """The Deployment of apps/v1 that keeps a TaskWorker's pods.

    Args:
        restricted: hold the pods to Pod Security `restricted`, whatever the template says.
        redis: as for ``job``.

    Raises:
        InvalidResource: the TaskWorker names no image, or its template asks for more than it may.
    """
    worker = TaskWorker.from_dict(request.worker)
    name, namespace = worker.metadata.name, worker.metadata.namespace
    if worker.spec.image is None:
        problem = "image is missing: on a cluster a TaskWorker runs in pods; name the image with the tasks' code"
        raise InvalidResource([("spec.image", problem)], kind="TaskWorker", name=name)
    drain = worker.spec.drain.timeout_seconds
    labels = {MANAGED_LABEL: MANAGED, TASK_WORKER_LABEL: name}
    launch = WorkerLaunch(
        name,
        namespace,
        tuple(worker.spec.tasks),
        worker.spec.concurrency,
        drain,
        ready_file=READY_FILE,
        queues=tuple(worker.spec.queues),
    )
    container = _container(WORKER_CONTAINER, worker.spec.image, launch, redis)
    container["readinessProbe"] = {"exec": {"command": ["test", "-e", READY_FILE]}, "periodSeconds": 2}
    container["env"].append({"name": SESSION, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
    spec: Manifest = {"terminationGracePeriodSeconds": drain + DRAIN_MARGIN_SECONDS, "containers": [container]}
    template = _pod_template(labels, worker.metadata.uid or "", spec, worker.spec.pod_template, restart="Always")
    if restricted:
        _hold_to_the_floor(template, "TaskWorker", name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": worker_deployment_name(name),
            "namespace": namespace,
            "labels": labels,
            "annotations": {TEMPLATE_HASH: _digest(template)},
            "ownerReferences": [_owner("TaskWorker", name, worker.metadata.uid or "")],
        },
        "spec": {
            "replicas": request.replicas,
            "selector": {"matchLabels": {TASK_WORKER_LABEL: name}},
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def worker_deployment_name(worker: str) -> str:
    """Not the bare name: a Deployment of apps/v1 called so may well be the user's own."""
    return f"{worker}-workers"


def worker_selector(worker: str) -> str:
    """The label selector of a TaskWorker's pods, as ``.status.selector`` carries it."""
    return f"{TASK_WORKER_LABEL}={worker}"


def literal(text: str) -> str:
    """``text`` for a field in which the kubelet expands ``$(NAME)``: what the process gets is ``text`` again.

    The kubelet puts the values of other variables there, those of Secrets too. So no byte that somebody else wrote
    stands in such a field without this.
    """
    return text.replace("$", "$$")


def _container(name: str, image: str, launch: FlowRunLaunch | WorkerLaunch, redis: SecretKey | None) -> Manifest:
    """The container that executes ``launch``."""
    of_redis = [{"name": REDIS_URL, "valueFrom": {"secretKeyRef": redis._asdict()}}] if redis else []
    return {
        "name": name,
        "image": image,
        "command": ["kapstan"],
        "args": [literal(word) for word in launch.command()],
        "env": [
            *({"name": name, "value": literal(value)} for name, value in launch.environ().items()),
            {"name": "HOME", "value": HOME},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *of_redis,
        ],
    }


def _pod_template(labels: Manifest, owner: str, spec: Manifest, override: Manifest, *, restart: str) -> Manifest:
    """The template with ``override`` laid over it and, over that, what no template may change."""
    (container,) = spec["containers"]
    container |= {
        "envFrom": [{"secretRef": {"name": WORKLOAD_SECRET}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": HOME}],  # noqa: S108
    }
    base: Manifest = {
        "metadata": {"labels": labels, "annotations": {OWNER_UID: owner}},
        "spec": spec
        | {
            "securityContext": _POD_SECURITY,
            "volumes": [{"name": "tmp", "emptyDir": dict[str, str]()}, {"name": "home", "emptyDir": dict[str, str]()}],
        },
    }
    template = cast("Manifest", merged(base, override))
    pod = template["spec"]
    for part in ("containers", "initContainers"):
        if part in pod:
            pod[part] = [_secured(item) for item in pod[part]]
    template["metadata"]["labels"] |= labels
    template["metadata"]["annotations"] |= {OWNER_UID: owner}
    pod |= {"restartPolicy": restart, "enableServiceLinks": False, "automountServiceAccountToken": False}
    return template


def _hold_to_the_floor(template: Manifest, kind: str, name: str) -> None:
    problems = pod_security.violations(template["spec"])
    if problems:
        raise InvalidResource(
            [(f"spec.podTemplate.spec.{path}", text) for path, text in problems], kind=kind, name=name
        )


def _secured(container: Manifest) -> Manifest:
    security = cast("Manifest", merged(_CONTAINER_SECURITY, container.get("securityContext") or {}))
    return container | {"securityContext": security}


def _owner(kind: str, name: str, uid: str) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
