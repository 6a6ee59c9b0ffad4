"""`kapstan dev` with the quickstart: what a person does on the first day, every part of it real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kapstan import backend, ids, settings
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.ports import Key, Kind
from kapstan.queue import server
from kapstan.runs.records import Records

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
DEADLINE = 90.0


class Dev:
    """A running `kapstan dev`, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        self.sink = folder / "effects"
        self._output = (folder / "dev.log").open("w+")
        self.environ = {
            **os.environ,
            "KAPSTAN_HOME": str(folder / "home"),
            "QUICKSTART_SINK": str(self.sink),
            "QUICKSTART_STEP_SECONDS": "0.4",
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "kapstan", "dev", "--dir", str(QUICKSTART), *options]
        self._process = subprocess.Popen(
            command, env=self.environ, stdout=self._output, stderr=subprocess.STDOUT, text=True
        )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(DEADLINE)

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kapstan", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=DEADLINE, **options)
        assert not check or done.returncode == 0, done.stderr
        return done

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return json.loads(self.run("get", kind, name, "-o", "json").stdout)

    def until(self, holds: Callable[[], Any]) -> Any:
        """Look again until it holds; the answer."""
        end, pause = time.monotonic() + DEADLINE, threading.Event()
        while not (answer := holds()):
            assert time.monotonic() < end, f"not in time; {self.log()}"
            pause.wait(0.05)
        return answer

    def status(self, kind: Kind, name: str) -> dict[str, Any]:
        """As it is stored: a command line for every look would take the machine from what is looked at."""
        cluster = LocalCluster.from_settings(settings.current())
        return (asyncio.run(cluster.get(Key(kind, "default", name))) or {}).get("status", {})

    def effects(self) -> list[str]:
        return self.sink.read_text().splitlines() if self.sink.exists() else []

    def recorded(self, name: str) -> int:
        """How many task runs of a flow run are in its journal."""
        run_id = self.status("FlowRun", name).get("runId")
        return len(Records(backend.current()).history(ids.parse(run_id)).outcomes) if run_id else 0

    def log(self) -> str:
        return Path(self._output.name).read_text()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGTERM)
        self._output.close()


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    dev = Dev(tmp_path)
    yield dev
    dev.close()
    backend.use(None)
    server.stop(settings.current().home_path)


def phase(dev: Dev, name: str) -> str:
    return dev.status("FlowRun", name).get("phase", "")


def pod_of(dev: Dev, name: str) -> str:
    attempts = dev.status("FlowRun", name).get("attempts") or [{}]
    return attempts[-1].get("pod", "")


STEPS = [f"{name} order=2" for name in ("reserve", "charge", "pick", "pack", "ship", "thank")]


@pytest.mark.timeout(240)
def test_a_killed_flow_goes_on_and_background_work_is_done(dev: Dev) -> None:
    dev.start("-f", str(QUICKSTART / "deployment.yaml"))
    dev.until(lambda: "Kapstan serves" in dev.log())
    assert dev.run("apply", "-f", str(QUICKSTART / "run.yaml")).stdout == "flowrun.kapstan.dev/fulfil-2 created\n"
    pod = dev.until(lambda: pod_of(dev, "fulfil-2"))
    dev.until(lambda: dev.recorded("fulfil-2") >= 3)  # an effect that is not recorded yet may happen again
    os.kill(int(pod.removeprefix("pid-")), signal.SIGKILL)
    dev.until(lambda: phase(dev, "fulfil-2") == "Completed")
    status = dev.get("fr", "fulfil-2")["status"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Lost", "Completed"]
    assert status["attempts"][0]["exitCode"] == -9
    done = [effect for effect in dev.effects() if effect in STEPS]
    assert done == STEPS, "each step once, in order"

    delayed = "from tasks import send_mail; print([f.result() for f in [send_mail.delay(str(n)) for n in range(4)]])"
    out = subprocess.run(
        [sys.executable, "-c", delayed], cwd=QUICKSTART, env=dev.environ, capture_output=True, text=True, timeout=60
    )
    assert out.stdout.strip() == "['sent to 0', 'sent to 1', 'sent to 2', 'sent to 3']", out.stderr
    dev.run("scale", "taskworker", "mailer", "--replicas", "1")
    dev.until(lambda: dev.status("TaskWorker", "mailer")["replicas"] == 1)
    assert dev.end(signal.SIGINT) == 0


@pytest.mark.timeout(240)
def test_what_ctrl_c_breaks_off_goes_on_at_the_next_start(dev: Dev) -> None:
    dev.run("apply", "-f", str(QUICKSTART / "run.yaml"), "-f", str(QUICKSTART / "deployment.yaml"))
    dev.run("scale", "tw", "mailer", "--replicas", "0")
    dev.start()
    dev.until(lambda: dev.recorded("fulfil-2") >= 2)  # an effect that is not recorded yet may happen again
    assert dev.end(signal.SIGINT) == 0
    before = len(dev.effects())
    assert before < 6
    dev.start()
    dev.until(lambda: phase(dev, "fulfil-2") == "Completed")
    assert dev.effects() == STEPS
    outcomes = [attempt["outcome"] for attempt in dev.get("fr", "fulfil-2")["status"]["attempts"]]
    assert outcomes == ["HandedBack", "Completed"]


@pytest.mark.timeout(240)
def test_a_dev_that_was_killed_finds_its_processes_again(dev: Dev) -> None:
    dev.run("apply", "-f", str(QUICKSTART / "run.yaml"), "-f", str(QUICKSTART / "deployment.yaml"))
    dev.run("scale", "tw", "mailer", "--replicas", "0")
    dev.start()
    dev.until(lambda: len(dev.effects()) >= 2)
    assert dev.end(signal.SIGKILL) == -9
    dev.start()
    dev.until(lambda: phase(dev, "fulfil-2") == "Completed")
    assert dev.effects() == STEPS
    attempts = dev.get("fr", "fulfil-2")["status"]["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["Completed"]
    assert dev.run("get", "all").returncode == 0


LISTED = """
import json, os
from kapstan import flow

@flow
def listed(customer: str = "nobody", items: list[str] | None = None) -> None:
    with open(os.environ["QUICKSTART_SINK"], "a") as sink:
        sink.write(json.dumps([customer, items]) + "\\n")
"""
LISTED_YAML = """
apiVersion: kapstan.dev/v1alpha1
kind: WorkPool
metadata: {name: pool}
spec: {}
---
apiVersion: kapstan.dev/v1alpha1
kind: Deployment
metadata: {name: listed}
spec:
  flow: {entrypoint: "listed.py:listed"}
  workPoolRef: {name: pool}
  parameters: {customer: ann, items: [of, the, Deployment]}
"""


def test_a_flow_run_is_given_the_parameters_that_it_refers_to(dev: Dev, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "listed.py").write_text(LISTED)
    items = ["x" * 100] * 100  # more than a FlowRun may carry
    key = dev.run("flow-run", "store-parameters", "-", input=json.dumps({"items": items})).stdout.strip()
    runs = [
        f"""---
apiVersion: kapstan.dev/v1alpha1
kind: FlowRun
metadata: {{name: {name}}}
spec: {{deploymentRef: {{name: listed}}, parametersRef: {{key: {referred}}}}}
"""
        for name, referred in (("stored", key), ("missing", "parameters/nothing"))
    ]
    dev.run("apply", "-f", "-", input=LISTED_YAML + "".join(runs))
    dev.start("--dir", str(code))
    dev.until(lambda: phase(dev, "stored") in ("Completed", "Failed"))
    assert [json.loads(line) for line in dev.effects()] == [["ann", items]]
    dev.until(lambda: phase(dev, "missing") in ("Completed", "Failed"))
    status = dev.get("flowrun", "missing")["status"]
    assert status["phase"] == "Failed"
    assert "the parameters at 'parameters/nothing' of namespace 'default' are not in the store" in status["message"]
    assert len(dev.effects()) == 1


CHARGED = """
import os
from kapstan import flow, task

def note(line):
    with open(os.environ["QUICKSTART_SINK"], "a") as sink:
        sink.write(line + "\\n")

@task
def charge():
    note("charge")

@task
def ship():
    note("ship")
    if not os.path.exists("van"):
        raise RuntimeError("no van")

@flow
def order():
    charge()
    ship()
"""


@pytest.mark.timeout(240)
def test_a_failed_run_goes_on_when_asked_and_its_key_stays_one_run(dev: Dev, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "order.py").write_text(CHARGED)
    deployment = LISTED_YAML.replace("listed.py:listed", "order.py:order").replace("listed", "order")
    deployment = deployment.replace("  parameters: {customer: ann, items: [of, the, Deployment]}\n", "")

    def run(resume: int) -> str:
        return f"""---
apiVersion: kapstan.dev/v1alpha1
kind: FlowRun
metadata: {{name: seven}}
spec: {{deploymentRef: {{name: order}}, idempotencyKey: order-7, resume: {resume}}}
"""

    dev.run("apply", "-f", "-", input=deployment + run(0))
    dev.start("--dir", str(code))
    dev.until(lambda: phase(dev, "seven") == "Failed")
    assert dev.effects() == ["charge", "ship"]
    (code / "van").touch()
    dev.run("apply", "-f", "-", input=run(1))
    dev.until(lambda: phase(dev, "seven") == "Completed")
    assert dev.effects() == ["charge", "ship", "ship"], "what had failed was executed again, and nothing else"
    asyncio.run(LocalCluster.from_settings(settings.current()).delete(Key("FlowRun", "default", "seven")))
    dev.run("apply", "-f", "-", input=run(0).replace("seven", "again"))
    dev.until(lambda: phase(dev, "again") == "Completed")
    assert dev.effects() == ["charge", "ship", "ship"], "made again under its key it is the same run"
    assert [attempt["number"] for attempt in dev.status("FlowRun", "again")["attempts"]] == [2]


def test_a_second_dev_of_a_home_is_refused(dev: Dev) -> None:
    dev.start()
    dev.until(lambda: "Kapstan serves" in dev.log())
    refused = dev.run("dev", check=False)
    assert refused.returncode == 2
    assert "already runs for" in refused.stderr


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("kind: FlowRun\nmetadata: {name: x}\nspec: {}", "deploymentRef is missing"),
        ("kind: Nonsense\nmetadata: {name: x}\nspec: {}", "'Nonsense' is none of"),
        ("kind: FlowRun\nmetadata: {name: x}\nspec: {deploymentRef: {name: d}, paramters: {}}", "paramters"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_fix(dev: Dev, document: str, words: str) -> None:
    text = f"apiVersion: kapstan.dev/v1alpha1\n{document}\n"
    refused = dev.run("apply", "-f", "-", input=text, check=False)
    assert refused.returncode == 2
    assert words in refused.stderr
