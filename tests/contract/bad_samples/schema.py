"""What the schema refuses: types, ranges, enums, lengths, unknown and missing fields."""

from __future__ import annotations

import json

from tests.contract.bad_samples.row import ABSENT, refused

SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

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
    refused(
        "snake-case", "TaskWorker", ("spec.pod_template", {}), "spec.pod_template", 'unknown field "spec.pod_template"'
    ),
    refused(
        "unknown-metadata",
        "WorkPool",
        ("metadata.label", {"a": "b"}),
        "metadata.label",
        'unknown field "metadata.label"',
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
        'Unsupported value: "Succeeded": supported values: "Scheduled", "Pending", "Running", "Suspended", '
        '"Cancelling", "Completed", "Failed", "Crashed", "Cancelled"',
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
    *(
        refused(
            f"beyond-{field.rpartition('.')[2]}",
            kind,
            (f"spec.{field}", most + 1),
            f"spec.{field}",
            f"Invalid value: {most + 1}: spec.{field} in body should be less than or equal to {most}",
        )
        for kind, field, most in (
            ("Deployment", "startingDeadlineSeconds", 315_360_000),
            ("Deployment", "historyLimits.successful", 1_000_000),
            ("Deployment", "concurrency.limit", 1_000_000),
            ("WorkPool", "deadlines.pendingSeconds", 315_360_000),
            ("WorkPool", "deadlines.runningSeconds", 315_360_000),
            ("WorkPool", "deadlines.unreachableSeconds", 315_360_000),
            ("WorkPool", "ttlSecondsAfterFinished", 315_360_000),
            ("TaskWorker", "drain.timeoutSeconds", 31_622_400),
            ("TaskWorker", "replicas", 100_000),
            ("FlowRun", "resume", 1_000_000),
        )
    ),
    refused(
        "too-many-secrets",
        "WorkPool",
        ("spec.imagePullSecrets", [{"name": f"secret-{number}"} for number in range(33)]),
        "spec.imagePullSecrets",
        "Too many: 33: must have at most 32 items",
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
        "schedule-name-with-a-space",
        "Deployment",
        ("spec.schedules.0.name", "Every night"),
        "spec.schedules[0].name",
        "Invalid value: \"Every night\": spec.schedules[0].name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'",
    ),
    *(
        refused(
            f"{field}-{what}",
            kind,
            (f"spec.{field}", value),
            f"spec.{field}",
            f"Invalid value: {json.dumps(value)}: spec.{field} in body should match '{pattern}'",
        )
        for kind, field, pattern in (
            ("FlowRun", "deploymentRef.name", f"{SUBDOMAIN}|^$"),
            ("Deployment", "workPoolRef.name", SUBDOMAIN),
            ("WorkPool", "serviceAccountName", SUBDOMAIN),
        )
        for what, value in (
            ("path", "../../team-b/deployments/foo"),
            ("dots", ".."),
            ("newline", "sample\n"),
            ("expansion", "$(KAPSTAN_SIGNING_KEY)"),
            ("capital", "Sample"),
        )
    ),
    refused(
        "secret-with-a-path",
        "WorkPool",
        ("spec.imagePullSecrets", [{"name": "a/b"}]),
        "spec.imagePullSecrets[0].name",
        f"Invalid value: \"a/b\": spec.imagePullSecrets[0].name in body should match '{SUBDOMAIN}'",
    ),
    refused(
        "capital-name",
        "WorkPool",
        ("metadata.name", "Bad_Pool"),
        "metadata.name",
        'Invalid value: "Bad_Pool": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '
        "'-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for "
        "validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
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
        ("spec.schedules", {}),
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
    refused("null-for-required", "Deployment", ("spec.workPoolRef", None), "spec.workPoolRef", "Required value"),
    refused(
        "null-in-list",
        "TaskWorker",
        ("spec.tasks", ["shop.tasks", None]),
        "spec.tasks[1]",
        'Invalid value: "null": spec.tasks[1] in body must be of type string: "null"',
    ),
    *(
        refused(
            f"time-as-{value}",
            "FlowRun",
            ("spec.scheduledTime", value),
            "spec.scheduledTime",
            f'Invalid value: "{name}": spec.scheduledTime in body must be of type date-time: "{name}"',
        )
        for name, value in (("int64", 17), ("float64", 1.5), ("", True))
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
        'Invalid value: "2026-01-01T00:00:00": spec.scheduledTime in body must be of type date-time: '
        '"2026-01-01T00:00:00"',
    ),
)
