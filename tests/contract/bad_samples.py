"""The one table of wrong input: what the API server refuses is refused by the models, in the same words.

`test_bad_samples` runs it against the models and against an API server; the e2e suite runs it on the cluster. A row holds a
manifest, the stored one if it is an update, the field to blame and the message. ``ours`` marks a rule that Kapstan
declares (`kapstan.resources.base.Rule`); other rows show that a range, an enum or a type of the schema says the same.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

ANOTHER_RUN = "create another FlowRun"


@dataclass(frozen=True)
class BadSample:
    """One manifest that must be refused."""

    id: str
    manifest: Manifest
    path: str
    message: str
    old: Manifest | None = None
    ours: bool = False


GOOD: dict[str, Manifest] = {
    "WorkPool": {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "WorkPool",
        "metadata": {"name": "sample", "namespace": "default"},
        "spec": {"type": "kubernetes", "queues": [{"name": "urgent", "priority": 1, "limit": 2}]},
    },
    "Deployment": {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": "sample", "namespace": "default"},
        "spec": {
            "flow": {"entrypoint": "shop.flows:nightly", "image": "registry.example/shop:1"},
            "workPoolRef": {"name": "sample"},
            "parameters": {"region": "north", "limits": [1, 2.5, None, {"deep": True}]},
            "schedules": [
                {"name": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin"},
                {"name": "often", "interval": 600, "anchor": "2026-01-01T00:00:00Z"},
                {"name": "mondays", "rrule": "FREQ=WEEKLY;BYDAY=MO"},
            ],
        },
    },
    "TaskWorker": {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "TaskWorker",
        "metadata": {"name": "sample", "namespace": "default"},
        "spec": {
            "image": "registry.example/shop:1",
            "tasks": ["shop.tasks", "shop/mail.py:send"],
            "autoscaling": {"minReplicas": 1, "maxReplicas": 4},
            "podTemplate": {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "b"}]}]}},
        },
    },
    "FlowRun": {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "FlowRun",
        "metadata": {"name": "sample", "namespace": "default"},
        "spec": {
            "deploymentRef": {"name": "sample"},
            "parameters": {"region": "south", "nested": {"list": [1, None]}},
            "idempotencyKey": "order-17",
            "scheduledTime": "2026-01-01T00:00:00Z",
        },
    },
}
"""One manifest of each kind that is accepted; every bad one is a small change of it."""

ABSENT: Any = object()


def changed(kind: str, path: str, value: Any) -> Manifest:
    """The good manifest with the value at ``spec.schedules.0.cron`` replaced, added, or removed (`ABSENT`)."""
    manifest = copy.deepcopy(GOOD[kind])
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = manifest
    for part in parents:
        target = target[part] if isinstance(part, int) else target.setdefault(part, {})
    if value is ABSENT:
        del target[last]
    else:
        target[last] = value
    return manifest


def refused(
    id: str, kind: str, change: tuple[str, Any], path: str, message: str, *, ours: bool = False
) -> BadSample:
    return BadSample(id, changed(kind, *change), path, message, ours=ours)


def refused_update(id: str, change: tuple[str, Any], path: str, message: str, *, stored: Manifest | None = None) -> BadSample:
    """A change of a stored FlowRun that a rule of ours refuses."""
    return BadSample(id, changed("FlowRun", *change), path, message, old=stored or GOOD["FlowRun"], ours=True)


ONE_OF = "exactly one of cron, interval and rrule must be set in a schedule: keep one, remove the others"
LONG = "a" * 53

OURS = (
    refused(
        "run-without-deployment",
        "FlowRun",
        ("spec.deploymentRef", ABSENT),
        "spec.deploymentRef",
        "deploymentRef is missing: name the Deployment (kapstan.dev) to run",
        ours=True,
    ),
    refused(
        "run-with-empty-deployment",
        "FlowRun",
        ("spec.deploymentRef.name", ""),
        "spec.deploymentRef.name",
        "deploymentRef.name is empty: name the Deployment (kapstan.dev) to run",
        ours=True,
    ),
    refused(
        "run-with-both-parameters",
        "FlowRun",
        ("spec.parametersRef", {"key": "runs/a/parameters"}),
        "spec.parametersRef",
        "parameters and parametersRef exclude each other: remove one of them",
        ours=True,
    ),
    refused(
        "min-above-max",
        "TaskWorker",
        ("spec.autoscaling", {"minReplicas": 5, "maxReplicas": 3}),
        "spec.autoscaling.minReplicas",
        "minReplicas (5) is greater than maxReplicas (3): lower minReplicas or raise maxReplicas",
        ours=True,
    ),
    refused(
        "task-without-module",
        "TaskWorker",
        ("spec.tasks", ["shop.tasks", ":send"]),
        "spec.tasks",
        "tasks has an entry that names no code: write package.module or file.py, and :task for one task of it",
        ours=True,
    ),
    refused(
        "entrypoint-without-function",
        "Deployment",
        ("spec.flow.entrypoint", "shop.flows"),
        "spec.flow.entrypoint",
        "entrypoint shop.flows names no function: write package.module:function or file.py:function",
        ours=True,
    ),
    refused("two-of-one", "Deployment", ("spec.schedules.0.interval", 60), "spec.schedules[0].cron", ONE_OF, ours=True),
    refused("none-of-one", "Deployment", ("spec.schedules.0.cron", ABSENT), "spec.schedules[0].cron", ONE_OF, ours=True),
    refused(
        "anchor-of-cron",
        "Deployment",
        ("spec.schedules.0.anchor", "2026-01-01T00:00:00Z"),
        "spec.schedules[0].anchor",
        "anchor goes with interval only: remove anchor, or use interval",
        ours=True,
    ),
    *(
        refused(
            f"long-name-{kind}",
            kind,
            ("metadata.name", name),
            "metadata.name",
            f"name {name} is too long: use at most {len(name) - 1} characters, so that names made from it fit into 63",
            ours=True,
        )
        for kind, name in (
            ("Deployment", "a" * 53),
            ("WorkPool", "b" * 53),
            ("TaskWorker", "c" * 53),
            ("FlowRun", "d" * 64),
        )
    ),
    refused(
        "dotted-name",
        "WorkPool",
        ("metadata.name", "my.pool"),
        "metadata.name",
        "name my.pool contains a dot: use lower case letters, digits and dashes only",
        ours=True,
    ),
)

UPDATES = (
    refused_update(
        "other-deployment",
        ("spec.deploymentRef.name", "another"),
        "spec.deploymentRef",
        f"deploymentRef is immutable: {ANOTHER_RUN}",
    ),
    *(
        refused_update(f"{how}-{field}", (f"spec.{field}", value), f"spec.{field}", f"{field} is immutable: {ANOTHER_RUN}")
        for field, other in (
            ("parameters", {"region": "north", "nested": {"list": [1, None]}}),
            ("idempotencyKey", "order-18"),
            ("scheduledTime", "2026-01-02T00:00:00Z"),
        )
        for how, value in (("other", other), ("removed", ABSENT))
    ),
    *(
        refused_update(
            f"late-{field}",
            (f"spec.{field}", GOOD["FlowRun"]["spec"][field]),
            f"spec.{field}",
            f"{field} is immutable: {ANOTHER_RUN}",
            stored=changed("FlowRun", f"spec.{field}", ABSENT),
        )
        for field in ("parameters", "idempotencyKey", "scheduledTime")
    ),
    refused_update(
        "renamed-parameter",
        ("spec.parameters", {"area": "south", "nested": {"list": [1, None]}}),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "parameter-more",
        ("spec.parameters.extra", 1),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "deep-parameter",
        ("spec.parameters.nested.list", [1, 2]),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "cancel-taken-back",
        ("spec.cancel", False),
        "spec.cancel",
        f"cancel cannot be taken back: {ANOTHER_RUN}",
        stored=changed("FlowRun", "spec.cancel", True),
    ),
    refused_update(
        "cancel-removed",
        ("metadata.labels", {}),
        "spec.cancel",
        f"cancel cannot be taken back: {ANOTHER_RUN}",
        stored=changed("FlowRun", "spec.cancel", True),
    ),
)

SCHEMA = (
    refused("no-spec", "FlowRun", ("spec", ABSENT), "spec", "Required value"),
    refused("no-entrypoint", "Deployment", ("spec.flow", {}), "spec.flow.entrypoint", "Required value"),
    refused("no-pool", "Deployment", ("spec.workPoolRef", ABSENT), "spec.workPoolRef", "Required value"),
    refused("no-max", "TaskWorker", ("spec.autoscaling", {}), "spec.autoscaling.maxReplicas", "Required value"),
    refused("unknown-field", "FlowRun", ("spec.paramters", {}), "spec.paramters", 'unknown field "spec.paramters"'),
    refused(
        "pod-template-on-run",
        "FlowRun",
        ("spec.podTemplate", {"spec": {}}),
        "spec.podTemplate",
        'unknown field "spec.podTemplate"',
    ),
    refused(
        "service-account-on-run",
        "FlowRun",
        ("spec.serviceAccountName", "admin"),
        "spec.serviceAccountName",
        'unknown field "spec.serviceAccountName"',
    ),
    refused(
        "unknown-field-in-list",
        "Deployment",
        ("spec.schedules.0.crom", "* * * * *"),
        "spec.schedules[0].crom",
        'unknown field "spec.schedules[0].crom"',
    ),
    refused("snake-case", "TaskWorker", ("spec.pod_template", {}), "spec.pod_template", 'unknown field "spec.pod_template"'),
    refused(
        "unknown-metadata", "WorkPool", ("metadata.label", {"a": "b"}), "metadata.label", 'unknown field "metadata.label"'
    ),
    refused(
        "bad-pool-type",
        "WorkPool",
        ("spec.type", "docker"),
        "spec.type",
        'Unsupported value: "docker": supported values: "kubernetes", "process"',
    ),
    refused(
        "bad-policy",
        "Deployment",
        ("spec.concurrency.policy", "Wait"),
        "spec.concurrency.policy",
        'Unsupported value: "Wait": supported values: "Allow", "Forbid", "Replace", "Queue"',
    ),
    refused(
        "bad-phase",
        "FlowRun",
        ("status.phase", "Succeeded"),
        "status.phase",
        'Unsupported value: "Succeeded": supported values: "Scheduled", "Pending", "Running", "Suspended", "Cancelling", '
        '"Completed", "Failed", "Crashed", "Cancelled"',
    ),
    refused(
        "negative-replicas",
        "TaskWorker",
        ("spec.replicas", -1),
        "spec.replicas",
        "Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
    ),
    refused(
        "zero-rate",
        "WorkPool",
        ("spec.concurrency.launchesPerSecond", 0),
        "spec.concurrency.launchesPerSecond",
        "Invalid value: 0: spec.concurrency.launchesPerSecond in body should be greater than 0",
    ),
    refused(
        "too-many-retries",
        "Deployment",
        ("spec.infrastructureRetries", 101),
        "spec.infrastructureRetries",
        "Invalid value: 101: spec.infrastructureRetries in body should be less than or equal to 100",
    ),
    refused(
        "empty-image",
        "TaskWorker",
        ("spec.image", ""),
        "spec.image",
        'Invalid value: "": spec.image in body should be at least 1 chars long',
    ),
    refused(
        "long-timezone",
        "Deployment",
        ("spec.schedules.0.timezone", "x" * 65),
        "spec.schedules[0].timezone",
        "Too long: may not be more than 64 bytes",
    ),
    refused(
        "no-tasks",
        "TaskWorker",
        ("spec.tasks", []),
        "spec.tasks",
        "Invalid value: 0: spec.tasks in body should have at least 1 items",
    ),
    refused(
        "too-many-tasks",
        "TaskWorker",
        ("spec.tasks", [f"module{number}" for number in range(65)]),
        "spec.tasks",
        "Too many: 65: must have at most 64 items",
    ),
    refused(
        "same-task-twice",
        "TaskWorker",
        ("spec.tasks", ["shop.tasks", "shop.tasks"]),
        "spec.tasks[1]",
        'Duplicate value: "shop.tasks"',
    ),
    refused(
        "same-schedule-twice",
        "Deployment",
        ("spec.schedules.1.name", "nightly"),
        "spec.schedules[1]",
        'Duplicate value: {"name":"nightly"}',
    ),
    refused(
        "reference-as-string",
        "FlowRun",
        ("spec.deploymentRef", "sample"),
        "spec.deploymentRef",
        'Invalid value: "string": spec.deploymentRef in body must be of type object: "string"',
    ),
    refused(
        "number-as-string",
        "TaskWorker",
        ("spec.replicas", "3"),
        "spec.replicas",
        'Invalid value: "string": spec.replicas in body must be of type integer: "string"',
    ),
    refused(
        "string-as-number",
        "FlowRun",
        ("spec.idempotencyKey", 17),
        "spec.idempotencyKey",
        'Invalid value: "integer": spec.idempotencyKey in body must be of type string: "integer"',
    ),
    refused(
        "boolean-as-string",
        "FlowRun",
        ("spec.cancel", "yes"),
        "spec.cancel",
        'Invalid value: "string": spec.cancel in body must be of type boolean: "string"',
    ),
    refused(
        "fraction-as-integer",
        "TaskWorker",
        ("spec.concurrency", 1.5),
        "spec.concurrency",
        'Invalid value: "number": spec.concurrency in body must be of type integer: "number"',
    ),
    refused(
        "list-as-object",
        "Deployment",
        ("spec.schedules", {"name": "nightly"}),
        "spec.schedules",
        'Invalid value: "object": spec.schedules in body must be of type array: "object"',
    ),
    refused(
        "parameters-as-list",
        "FlowRun",
        ("spec.parameters", ["south"]),
        "spec.parameters",
        'Invalid value: "array": spec.parameters in body must be of type object: "array"',
    ),
    refused(
        "null-without-default",
        "TaskWorker",
        ("spec.image", None),
        "spec.image",
        'Invalid value: "null": spec.image in body must be of type string: "null"',
    ),
    refused(
        "not-a-time",
        "FlowRun",
        ("spec.scheduledTime", "tomorrow"),
        "spec.scheduledTime",
        'Invalid value: "tomorrow": spec.scheduledTime in body must be of type date-time: "tomorrow"',
    ),
    refused(
        "time-without-zone",
        "FlowRun",
        ("spec.scheduledTime", "2026-01-01T00:00:00"),
        "spec.scheduledTime",
        'Invalid value: "2026-01-01T00:00:00": spec.scheduledTime in body must be of type date-time: "2026-01-01T00:00:00"',
    ),
)

BAD_SAMPLES: tuple[BadSample, ...] = (*OURS, *UPDATES, *SCHEMA)
