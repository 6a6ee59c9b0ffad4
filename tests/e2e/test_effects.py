"""Effects in pods that die in the middle: the next pod, which sees no process of the first, knows that it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening
from tests.e2e.watched import Told, watching

pytestmark = pytest.mark.node


def phase(told: Told) -> str:
    return told.object.get("status", {}).get("phase", "")


@pytest.mark.parametrize(("flow", "ends"), [("charges", "Suspended"), ("books", "Completed")])
def test_a_container_that_is_killed_in_an_effect(installed: Installed, tmp_path: Path, flow: str, ends: str) -> None:
    code = {"entrypoint": f"deaths.py:{flow}", "image": installed.image}
    installed.apply("Deployment", flow, {"flow": code, "workPoolRef": {"name": "pool"}})
    cluster, namespace, name = installed.cluster, installed.namespace, f"{flow}-1"
    with (
        listening(installed, tmp_path) as sink,
        watching(cluster.kubeconfig, namespace, "flowruns") as runs,
        watching(cluster.kubeconfig, namespace, "pods") as pods,
    ):
        sink.hold(name)
        installed.run(name, flow, parameters={"sink": sink.url, "name": name})
        sink.wait("begins", name)
        first = next(
            told.name
            for told in reversed(pods.told)
            if told.object["metadata"].get("labels", {}).get("kapstan.dev/flow-run") == name
        )
        pods.first(first, lambda told: phase(told) == "Running", "Running")  # which is told after the effect began
        cluster.kill_container(first, namespace, "flow")
        lost = runs.first(name, lambda told: bool(told.object.get("status", {}).get("infrastructureLosses")), "loss")
        assert lost.object["status"]["attempts"][0]["exitCode"] == 137
        sink.release()
        status = runs.first(name, lambda told: phase(told) == ends, ends).object["status"]
        assert len(status["attempts"]) == 2
        begun = [effect.by for effect in sink.of(name)]
        assert begun == ([first] if flow == "charges" else [first, status["attempts"][1]["pod"]])
