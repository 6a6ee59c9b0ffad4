"""What a launcher makes is what `kapstan run` and `kapstan task serve` read, and the kubelet expands nothing of it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from tests.unit.kubernetes import kubelet
from tests.unit.kubernetes.test_render import RUN_ID, job_request, workers_request

from kapstan import ids, settings
from kapstan.cli import run, task
from kapstan.cluster.kubernetes import render
from kapstan.cluster.local import process, processes
from kapstan.ports import JobRequest, WorkersRequest
from kapstan.ports.launch import FlowRunLaunch, WorkerLaunch

AWKWARD = (
    "$(KAPSTAN_SIGNING_KEY)",
    "$$(KAPSTAN_SIGNING_KEY)",
    "$$",
    "$(",
    "$",
    "pa$$word",
    "a\nb\tc",
    "-x",
    "--attempt=9",
    "'\"\\`;|&",
    "ключ 🔑 \u2028",
    "%(x)s {y} ${z} $z",
    "x" * 1500,
)


def read(command: click.Command, reader: Any, words: list[str], environ: dict[str, str]) -> Any:
    """What the command reads in a process with these arguments and this environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    settings.use(None)
    try:
        return reader(**command.make_context(command.name, words).params)
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.use(None)


def read_run(words: list[str], environ: dict[str, str]) -> FlowRunLaunch:
    assert words[0] == "run"
    return read(run.command, run.read, words[1:], environ)


def read_worker(words: list[str], environ: dict[str, str]) -> WorkerLaunch:
    assert words[:2] == ["task", "serve"]
    return read(task.serve, task.read, words[2:], environ)


def in_a_pod(container: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    words, environ = kubelet.process(container)
    assert words[0] == "kapstan"
    ours = {name: value for name, value in environ.items() if name not in kubelet.SECRET}
    return words[1:], ours


def on_this_machine(
    request: JobRequest | WorkersRequest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], dict[str, str]]:
    """What the process launcher hands to the process that it starts."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(_self: Any, _note: Any, command: list[str], *, cwd: str, environ: dict[str, str]) -> None:
        started.append((command, dict(environ)))

    monkeypatch.setattr(process.Process, "start", start)

    async def launch() -> None:
        launcher = processes.ProcessLauncher(root, root, changed=lambda _: None, say=lambda _: None, environ={})
        await (launcher.start(request) if isinstance(request, JobRequest) else launcher.ensure_workers(request))
        await launcher.close()

    asyncio.run(launch())
    ((command, environ),) = started
    return command[command.index("kapstan") + 1 :], environ


@pytest.mark.parametrize("text", AWKWARD)
def test_kapstan_run_reads_what_both_launchers_made(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"text": text, text: [text, {"deep": text}], "n": 1.0, "none": None}
    entrypoint = "".join(text.split()).replace(":", "")[-500:] + ".py:main"
    request = job_request(flow={"entrypoint": entrypoint}, parameters=parameters, parameters_ref=text, again=True)
    wanted = FlowRunLaunch(
        entrypoint,
        RUN_ID,
        2,
        "team",
        ids.run_name(RUN_ID),
        "etl",
        parameters=parameters,
        parameters_ref=text,
        again=True,
    )
    container = render.job(request)["spec"]["template"]["spec"]["containers"][0]
    assert read_run(*in_a_pod(container)) == wanted
    assert read_run(*on_this_machine(request, tmp_path, monkeypatch)) == wanted


def test_a_run_without_stored_parameters_reads_none() -> None:
    container = render.job(job_request())["spec"]["template"]["spec"]["containers"][0]
    assert read_run(*in_a_pod(container)).parameters_ref == ""
    assert not read_run(*in_a_pod(container)).again


@pytest.mark.parametrize("text", AWKWARD)
def test_kapstan_task_serve_reads_what_both_launchers_made(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("".join(text.split()).replace(":", "") + ".py")[-200:]
    tasks = (place, "shop.tasks", f"{place}:send")
    request = workers_request(
        {"tasks": list(tasks), "drain": {"timeoutSeconds": 1_234_567}, "queues": ["slow", "-x"]}, replicas=1
    )
    wanted = WorkerLaunch("mail", "team", tasks, 4, 1_234_567, render.READY_FILE, queues=("slow", "-x"))
    container = render.app_deployment(request)["spec"]["template"]["spec"]["containers"][0]
    assert read_worker(*in_a_pod(container)) == wanted
    here = read_worker(*on_this_machine(request, tmp_path, monkeypatch))
    assert here.session.startswith("mail-")
    assert here.ready_file.startswith(str(tmp_path))
    assert replace(here, session="", ready_file=render.READY_FILE) == wanted


def test_no_secret_is_expanded_into_what_a_user_wrote() -> None:
    """The test's kubelet does expand: a variable that is not escaped would show the key."""
    container = {"env": [{"name": "A", "value": "$(KAPSTAN_SIGNING_KEY)"}], "args": ["$(A)", "$$(A)"]}
    assert kubelet.process(container)[0] == ["the-signing-key", "$(A)"]
