"""A manifest and a status of each kind that are accepted; every bad sample is a small change of one."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

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
            "parameters": {"region": "south", "nothing": None, "nested": {"list": [1, None]}},
            "idempotencyKey": "order-17",
            "scheduledTime": "2026-01-01T00:00:00Z",
        },
    },
}

GOOD_STATUS: dict[str, Manifest] = {
    "WorkPool": {
        "observedGeneration": 1,
        "inFlight": 2,
        "queued": 3,
        "lastError": {"message": "quota used up", "flowRun": "sample", "time": "2026-01-01T00:00:00Z"},
    },
    "Deployment": {
        "observedGeneration": 1,
        "nextRuns": ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"],
        "lastRun": {"name": "sample-1", "phase": "Completed", "scheduledTime": "2026-01-01T00:00:00Z"},
        "active": 1,
        "counts": {"completed": 4, "failed": 1},
        "schedules": [{"name": "nightly", "lastScheduleTime": "2026-01-01T00:00:00.250000Z"}],
    },
    "TaskWorker": {
        "replicas": 2,
        "readyReplicas": 2,
        "busyReplicas": 1,
        "drainingReplicas": 1,
        "selector": "kapstan.dev/task-worker=sample",
        "backlog": 7,
        "oldestAgeSeconds": 1.5,
        "lastDecision": {"fromReplicas": 1, "toReplicas": 2, "reason": "backlog 7", "time": "2026-01-01T00:00:00Z"},
    },
    "FlowRun": {
        "observedGeneration": 1,
        "phase": "Failed",
        "runId": "019b1b6e-0000-7000-8000-000000000000",
        "name": "nimble-falcon",
        "attempts": [
            {
                "number": 1,
                "job": "sample-1",
                "pod": "sample-1-abcde",
                "node": "node1",
                "reason": "OOMKilled",
                "exitCode": 137,
                "startedAt": "2026-01-01T00:00:00Z",
                "finishedAt": "2026-01-01T00:00:05Z",
                "outcome": "Lost",
            },
            {"number": 2, "job": "sample-2"},
        ],
        "infrastructureLosses": 1,
        "resultRef": "results/sample",
        "diagnosis": {"category": "OOMKilled", "message": "64 MiB were not enough", "resolution": "raise the limit"},
        "message": "Finished in state Failed()",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "OOMKilled",
                "message": "64 MiB were not enough",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:05Z",
            }
        ],
    },
}
"""A status of each kind as the operator writes it."""
