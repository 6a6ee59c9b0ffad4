"""`make demo`: the main job in one go, on this machine or (`--cluster`) on the cluster that kubectl would use.

Applies the quickstart, kills its flow in the middle and shows the next attempt reuse what was done; delays background
work to two workers, kills one and shows that nothing is lost. Here `kapstan dev` launches processes; on a cluster,
where the chart is installed and the quickstart's image is on the nodes, the operator launches pods. The rest of this
script is the same for both.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
MAILS = 24
IMAGE = "kapstan-quickstart:1"
"""As deployment.yaml has it. Not `latest`: nodes would ask a registry for that each time."""
SLOWER_STEPS = "{spec: {containers: [{name: flow, env: [{name: QUICKSTART_STEP_SECONDS, value: '3'}]}]}}"
"""On a cluster, where it may take seconds until a pod is killed."""
T = TypeVar("T")
console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", action="store_true", help="on the cluster that kubectl would use")
    parser.add_argument("--namespace", default="default", help="of the cluster (default: default)")
    parser.add_argument("--image", default="", help=f"the quickstart's image (default: {IMAGE})")
    chosen = parser.parse_args()
    began = time.monotonic()
    sys.path.insert(0, str(HERE))
    with cluster(chosen.namespace, chosen.image or IMAGE) if chosen.cluster else this_machine() as place:
        killed_flow(place)
        killed_worker(place)
        overview(place)
    console.print(f"\nDone in {time.monotonic() - began:.1f} s.")


# ------------------------------------------------------------------------------------------ the two halves of the demo


def killed_flow(place: Place) -> None:
    """Kill the flow's process after its third step; the next attempt executes the other three."""
    console.rule("A flow that is killed goes on where it stood")
    place.kapstan("apply", "-f", HERE / "run.yaml")
    run = until("the run has a process", lambda: place.begun("fulfil-2"))
    until("three steps done", lambda: len(place.history(run).outcomes) >= 3)
    pod = run["status"]["attempts"][-1]["pod"]
    console.print(f"three of six steps are done, killing {pod}")
    place.kill(pod)
    run = until("the run has ended", lambda: place.ended("fulfil-2"), seconds=120)
    assert run["status"]["phase"] == "Completed", run["status"]
    for attempt, steps in place.executed(run).items():
        console.print(f"attempt {attempt} executed {', '.join(steps)}")


def killed_worker(place: Place) -> None:
    """Delay work to two workers, kill one of them; every run has its result."""
    from tasks import send_mail

    console.rule("A worker that is killed loses nothing")
    until("two workers ready", lambda: place.get("taskworker", "mailer")["status"].get("readyReplicas") == 2)
    futures = [send_mail.delay(f"user-{n}@example.com") for n in range(MAILS)]
    until("work is under way", lambda: sum(future.state.is_final() for future in futures) >= 4)
    victim = place.a_busy_worker()
    console.print(f"{MAILS} runs delayed, killing {victim}")
    place.kill(victim)
    results = [future.result(timeout=60) for future in futures]
    assert results == [f"sent to user-{n}@example.com" for n in range(MAILS)]
    console.print(
        f"{len(results)} of {MAILS} results are there, read by id from another process than the one that ran them"
    )


def overview(place: Place) -> None:
    """Runs, attempts, states, durations and results."""
    console.rule("What ran")
    run = place.get("flowrun", "fulfil-2")
    table = Table("FLOW RUN", "NAME", "ATTEMPT", "ENDED AS", "WHY", "SECONDS", "TASKS EXECUTED")
    executed = place.executed(run)
    for attempt in run["status"]["attempts"]:
        table.add_row(
            "fulfil-2",
            run["status"]["name"],
            str(attempt["number"]),
            str(attempt.get("outcome")),
            str(attempt.get("reason") or ""),
            f"{seconds(attempt):.1f}",
            str(len(executed.get(attempt["number"], []))),
        )
    console.print(table)
    console.print(f"state {run['status']['phase']}, result {place.result(run)}")
    schedule = place.get("deployment.kapstan.dev", "fulfil")["status"]
    console.print(f"the schedule starts the next run at {schedule['nextRuns'][0]}")
    runs = place.background_runs()
    table = Table("BACKGROUND TASK", "STATE", "RUNS", "CLAIMED AGAIN AFTER THE KILL")
    for state in sorted({run.state for run in runs}):
        of_state = [run for run in runs if run.state == state]
        table.add_row("send_mail", state, str(len(of_state)), str(sum(run.token.epoch > 1 for run in of_state)))
    console.print(table)


# ------------------------------------------------------------------------------------------ where it happens


class Place:
    """A control plane with the quickstart applied, and this process' way to its queue and store."""

    def __init__(self, target: list[str], kill: Callable[[str], None]) -> None:
        self._target = target
        self.kill = kill

    def kapstan(self, *words: str | Path) -> str:
        command = [sys.executable, "-m", "kapstan", *map(str, words), *self._target]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kapstan("get", kind, name, "-o", "json"))
        return {"status": {}, **found}

    def history(self, run: dict[str, Any]) -> Any:
        """The run's journal, read as the operator reads it."""
        from kapstan import backend, ids
        from kapstan.runs.records import Records

        return Records(backend.current()).history(ids.parse(run["status"]["runId"]))

    def begun(self, name: str) -> dict[str, Any] | None:
        run = self.get("flowrun", name)
        attempts = run["status"].get("attempts") or [{}]
        return run if attempts[-1].get("pod") else None

    def ended(self, name: str) -> dict[str, Any] | None:
        run = self.get("flowrun", name)
        return run if run["status"].get("phase") in ("Completed", "Failed", "Crashed", "Cancelled") else None

    def executed(self, run: dict[str, Any]) -> dict[int, list[str]]:
        """The names of the task runs that each attempt executed itself."""
        history = self.history(run)
        found: dict[int, list[str]] = {attempt.number: [] for attempt in history.attempts}
        for outcome in history.outcomes.values():
            number = max(attempt.number for attempt in history.attempts if attempt.started <= outcome.at)
            found[number].append(outcome.name)
        return found

    def result(self, run: dict[str, Any]) -> Any:
        from kapstan import results

        return results.read_flow_run(run["status"]["runId"]).result()

    def a_busy_worker(self) -> str:
        """A session that has claimed runs right now."""
        from kapstan import backend

        def busy() -> str | None:
            return next((session.session for session in backend.current().queue.sessions() if session.claimed), None)

        return until("a worker at work", busy)

    def background_runs(self) -> list[Any]:
        from kapstan import backend

        return backend.current().queue.runs(limit=MAILS)


@contextlib.contextmanager
def this_machine() -> Iterator[Place]:
    """`kapstan dev` with a home of its own, which is gone afterwards."""
    from kapstan.queue import server

    home = Path(tempfile.mkdtemp(prefix="kapstan-demo-"))
    os.environ.update(KAPSTAN_HOME=str(home), QUICKSTART_STEP_SECONDS="0.4", QUICKSTART_TASK_SECONDS="0.2")

    def kill(victim: str) -> None:
        """SIGKILL to a flow's process (`pid-1234`) or a worker's (its session), and to what it started."""
        if victim.startswith("pid-"):
            os.killpg(int(victim.removeprefix("pid-")), signal.SIGKILL)
            return
        for note in home.glob("processes/*/*/*/*/pid"):
            if victim.startswith(note.parent.name):
                os.killpg(json.loads(note.read_text())["pid"], signal.SIGKILL)

    yaml = HERE / "deployment.yaml"
    with (home / "dev.log").open("wb") as log:
        command = [sys.executable, "-m", "kapstan", "dev", "-f", yaml, "--dir", HERE, "--grace", "2"]
        control = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        place = Place([], kill)
        until("kapstan dev to serve", lambda: b"Kapstan serves" in (home / "dev.log").read_bytes())
        yield place
    except BaseException:
        sys.stderr.write((home / "dev.log").read_text())
        raise
    finally:
        control.send_signal(signal.SIGINT)
        control.wait(30)
        server.stop(home)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def cluster(namespace: str, image: str) -> Iterator[Place]:
    """The cluster that kubectl would use; the chart is installed and serves ``namespace``. All is gone afterwards."""
    if shutil.which("kubectl") is None:
        sys.exit("kubectl is not on PATH; it reaches the cluster and forwards Redis and the store to this machine")

    def kubectl(*words: str) -> str:
        done = subprocess.run(["kubectl", "-n", namespace, *words], check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def kill(victim: str) -> None:
        """End a pod at once, by its name or by the uid that its session begins with."""
        pods = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
        names = [pod["metadata"]["name"] for pod in pods if victim.startswith(called(pod))]
        kubectl("delete", "pod", "--force", "--grace-period=0", *names)

    def clean() -> None:
        kubectl("delete", "--ignore-not-found", "-f", str(HERE / "run.yaml"), "-f", str(HERE / "deployment.yaml"))

    secret = json.loads(kubectl("get", "secret", "--ignore-not-found", "kapstan-workload", "-o", "json") or "{}")
    if not secret:
        sys.exit(f"namespace {namespace!r} is not served: install charts/kapstan with namespaces={{{namespace}}}")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as forwards:
        for name, value in settings(secret["data"]).items():
            inside = name in ("KAPSTAN_REDIS_URL", "KAPSTAN_S3_ENDPOINT")
            os.environ[name] = forwarded(value, forwards) if inside else value
        os.environ.update(KAPSTAN_HOME=folder, KAPSTAN_NAMESPACE=namespace)
        yaml = Path(folder) / "deployment.yaml"
        pool = f"type: kubernetes\n  podTemplate: {SLOWER_STEPS}"
        yaml.write_text((HERE / "deployment.yaml").read_text().replace(IMAGE, image).replace("type: kubernetes", pool))
        clean()
        forwards.callback(clean)
        place = Place(["--cluster", "--namespace", namespace], kill)
        place.kapstan("apply", "-f", yaml)
        yield place


def called(pod: dict[str, Any]) -> tuple[str, str]:
    """What a pod is known by: its name, and the uid that a worker's session begins with."""
    return pod["metadata"]["name"], pod["metadata"]["uid"]


def settings(secret: dict[str, str]) -> dict[str, str]:
    """What flow and worker pods are told of Redis, the store and the signing key."""
    return {name: base64.b64decode(value).decode() for name, value in secret.items() if name.startswith("KAPSTAN_")}


def forwarded(url: str, forwards: contextlib.ExitStack) -> str:
    """The same address, reached through `kubectl port-forward`."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    service, namespace = (parts.hostname or "").split(".")[:2]
    command = ["kubectl", "-n", namespace, "port-forward", f"service/{service}", f":{parts.port}"]
    forward = forwards.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    forwards.callback(forward.terminate)
    assert forward.stdout is not None
    port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}".lstrip("@")).geturl()


def until(what: str, happened: Callable[[], T | bool | None], seconds: float = 60.0) -> T:
    """The first true answer of ``happened``."""
    deadline = time.monotonic() + seconds
    while not (answer := happened()):
        if time.monotonic() > deadline:
            sys.exit(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.1)
    return answer  # type: ignore[return-value]


def seconds(attempt: dict[str, Any]) -> float:
    from datetime import datetime

    if not attempt.get("startedAt") or not attempt.get("finishedAt"):
        return 0.0
    return (
        datetime.fromisoformat(attempt["finishedAt"]) - datetime.fromisoformat(attempt["startedAt"])
    ).total_seconds()


if __name__ == "__main__":
    main()
