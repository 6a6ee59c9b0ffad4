"""Effects in pods that die in the middle: the next pod, which sees no process of the first, knows that it has ended.
What nobody can know is told, with what was seen of the dead pod, and the flow goes on when a person has decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening, submitting
from tests.e2e.sink import Sink
from tests.e2e.watched import Told, Watched, watching

from kapstan.cli import cli

pytestmark = pytest.mark.node


def phase(told: Told) -> str:
    return told.object.get("status", {}).get("phase", "")


def doubt(told: Told) -> str:
    """The message of the condition that its effect is in doubt; "": it has none."""
    conditions = told.object.get("status", {}).get("conditions", [])
    return next((one["message"] for one in conditions if one["type"] == "EffectsInDoubt"), "")


@contextmanager
def killed(installed: Installed, folder: Path, flow: str) -> Iterator[tuple[Sink, Watched, str, str]]:
    """The sink, the FlowRuns, the name of a run whose container was killed in its effect, and the pod's name."""
    code = {"entrypoint": f"deaths.py:{flow}", "image": installed.image}
    installed.apply("Deployment", flow, {"flow": code, "workPoolRef": {"name": "pool"}})
    cluster, namespace, name = installed.cluster, installed.namespace, f"{flow}-1"
    with (
        listening(installed, folder) as sink,
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
        yield sink, runs, name, first


def kapstan(installed: Installed, *words: str) -> str:
    """What the command line prints, as of a person with the settings of the namespace."""
    with submitting(installed):
        answer = CliRunner().invoke(cli, words)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_what_its_receiver_knows_again_is_repeated(installed: Installed, tmp_path: Path) -> None:
    with killed(installed, tmp_path, "books") as (sink, runs, name, first):
        status = runs.first(name, lambda told: phase(told) == "Completed", "Completed").object["status"]
        assert [attempt["outcome"] for attempt in status["attempts"]] == ["Lost", "Completed"]
        assert [effect.by for effect in sink.of(name)] == [first, status["attempts"][1]["pod"]]


def test_what_must_not_happen_twice_waits_for_a_person(installed: Installed, tmp_path: Path) -> None:
    with killed(installed, tmp_path, "charges") as (sink, runs, name, first):
        told = runs.first(name, lambda told: phase(told) == "Suspended" and doubt(told) != "", "EffectsInDoubt")
        assert [attempt["outcome"] for attempt in told.object["status"]["attempts"]] == ["Lost", "Suspended"]
        key = doubt(told).rpartition("kapstan task-run resolve ")[2]
        known: dict[str, Any] = json.loads(kapstan(installed, "task-run", "inspect", key, "-o", "json"))
        evidence = known["evidence"]
        assert known["task"] in doubt(told)
        assert (evidence["pod"], evidence["exit_code"]) == (first, 137)
        assert evidence["node"] == told.object["status"]["attempts"][0]["node"]
        assert any(f"about to charge {name}" in line for line in evidence["log"]), evidence
        assert "is committed" in kapstan(installed, "task-run", "resolve", key, "--committed", '"by hand"')
        status = runs.first(name, lambda told: phase(told) == "Completed", "Completed").object["status"]
        assert [attempt["outcome"] for attempt in status["attempts"]] == ["Lost", "Suspended", "Completed"]
        assert "EffectsInDoubt" not in [condition["type"] for condition in status["conditions"]]
        assert [effect.by for effect in sink.of(name)] == [first]
        events = installed.cluster.get("events", "-n", installed.namespace)["items"]
        parked = [one for one in events if one["reason"] == "Parked" and one["involvedObject"]["name"] == name]
        assert [one["message"] for one in parked] == [doubt(told)]
