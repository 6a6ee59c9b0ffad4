"""What a rule of ours refuses in a new object."""

from __future__ import annotations

from tests.contract.bad_samples.row import ABSENT, refused

ONE_OF = "exactly one of cron, interval and rrule must be set in a schedule: keep one, remove the others"

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
        "run-with-null-deployment",
        "FlowRun",
        ("spec.deploymentRef.name", None),
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
    *(
        refused(
            f"{field}-with-{what}",
            kind,
            (f"spec.{path}", value if field == "entrypoint" else [value]),
            f"spec.{path}",
            f"entrypoint {value} names no function: write package.module:function or file.py:function"
            if field == "entrypoint"
            else "tasks has an entry that names no code: write package.module or file.py, and :task for one task of it",
            ours=True,
        )
        for kind, field, path in (("Deployment", "entrypoint", "flow.entrypoint"), ("TaskWorker", "tasks", "tasks"))
        for what, value in (
            ("escape", "shop\x1b.flows:nightly"),
            ("expansion", "shop.flows:$(HOME)"),
        )
    ),
    refused("two-of-one", "Deployment", ("spec.schedules.0.interval", 60), "spec.schedules[0].cron", ONE_OF, ours=True),
    refused(
        "none-of-one", "Deployment", ("spec.schedules.0.cron", ABSENT), "spec.schedules[0].cron", ONE_OF, ours=True
    ),
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
