"""A node that goes silent with a flow on it: nothing is started twice, the run says why it waits, and then goes on.

The node's kubelet is stopped. What runs there runs on, as on a node that is cut off; nobody can tell whether it does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening
from tests.e2e.watched import Told, watching

pytestmark = pytest.mark.node

AT_ONCE = [
    {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    for why in ("unreachable", "not-ready")
]
"""Pods wait five minutes on a silent node by default; these are told to go at once."""


def reason(told: Told, type_: str) -> str:
    conditions = told.object.get("status", {}).get("conditions", [])
    return next((one["reason"] for one in conditions if one["type"] == type_ and one["status"] == "True"), "")


def test_a_run_on_a_silent_node_waits_says_why_and_goes_on(installed: Installed, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"tolerations": AT_ONCE, "terminationGracePeriodSeconds": 2}
    installed.apply("WorkPool", "leaving", {"podTemplate": {"spec": spec}})
    code = {"entrypoint": "deaths.py:loop", "image": installed.image}
    installed.apply("Deployment", "leaving", {"flow": code, "workPoolRef": {"name": "leaving"}})
    cluster, namespace, name = installed.cluster, installed.namespace, "silent-1"
    with (
        listening(installed, tmp_path) as sink,
        watching(cluster.kubeconfig, namespace, "flowruns") as runs,
        watching(cluster.kubeconfig, namespace, "jobs") as jobs,
        watching(cluster.kubeconfig, namespace, "pods") as pods,
    ):
        sink.hold(f"{name}-after-2")
        installed.run(name, "leaving", parameters={"sink": sink.url, "name": name})
        sink.wait("returned", f"{name}-after-2")

        def ours(told: Told) -> bool:
            return told.object["metadata"].get("labels", {}).get("kapstan.dev/flow-run") == name

        with cluster.silent_node():
            pods.until(
                lambda told: any(ours(one) and "deletionTimestamp" in one.object["metadata"] for one in told),
                "pod that is told to go",
            )
            waits = runs.first(name, lambda told: reason(told, "Degraded") == "NodeLost", "a condition that says why")
            diagnosis = waits.object["status"]["diagnosis"]
            assert "is not seen to have: it may still run, so nothing else executes the run" in diagnosis["message"]
            assert "--force --grace-period=0" in diagnosis["resolution"]
            assert len(waits.object["status"]["attempts"]) == 1
            assert [one.name for one in jobs.told if ours(one) and one.type == "ADDED"] == [f"{name}-1"]
            shown = cluster.kubectl("get", "flowruns.kapstan.dev", name, "-n", namespace, "-o", "wide")
            assert "NodeLost" in shown
        # Back again, the node ends what it was told to end; until then the flow stands still between two effects.
        pods.until(lambda told: any(ours(one) and one.type == "DELETED" for one in told), "end of the first pod")
        sink.release(f"{name}-after-2")
        ended = runs.first(name, lambda told: told.object.get("status", {}).get("phase") == "Completed", "Completed")
        attempts = ended.object["status"]["attempts"]
        begun = [one.name for one in jobs.told if ours(one) and one.type == "ADDED"]
        assert begun == [f"{name}-{number}" for number in range(1, len(attempts) + 1)], "one Job for each attempt"
        assert all(count == 1 for count in sink.count(name).values()), json.dumps(sink.count(name))
        assert len(sink.count(name)) == 6
        assert reason(ended, "Degraded") == ""
