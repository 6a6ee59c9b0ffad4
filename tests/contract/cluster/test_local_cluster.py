"""What only the files of a home promise: several processes, crashes, what belongs together."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from kapstan.cluster.local.cluster import LocalCluster
from kapstan.cluster.local.objects import Objects
from kapstan.ports import Key
from kapstan.resources import API_VERSION

WRITER = """
import asyncio, sys
from pathlib import Path
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.ports import Key

async def main(root, times):
    cluster = LocalCluster(Path(root))
    key = Key("TaskWorker", "default", "mailer")
    for _ in range(times):
        while True:
            found = await cluster.get(key)
            wanted = {**found, "spec": {**found["spec"], "replicas": found["spec"]["replicas"] + 1}}
            try:
                await cluster.apply(wanted)
                break
            except Exception as error:
                if type(error).__name__ != "ResourceConflict":
                    raise

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def worker(replicas: int = 0) -> dict[str, object]:
    return {
        "apiVersion": API_VERSION,
        "kind": "TaskWorker",
        "metadata": {"name": "mailer"},
        "spec": {"tasks": ["shop.tasks"], "replicas": replicas},
    }


KEY = Key("TaskWorker", "default", "mailer")


def test_processes_that_write_at_once_lose_nothing_and_are_heard(tmp_path: Path) -> None:
    async def body() -> None:
        cluster = LocalCluster(tmp_path)
        await cluster.create(worker())
        seen: list[int] = []

        async def listen() -> None:
            async for _, found in cluster.changes(("TaskWorker",)):
                seen.append(found["spec"]["replicas"])
                if seen[-1] == 60:
                    return

        listening = asyncio.create_task(listen())
        writers = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), "20") for _ in range(3)
        ]
        assert [await writer.wait() for writer in writers] == [0, 0, 0]
        await asyncio.wait_for(listening, 30)
        assert seen == sorted(seen)
        found = await cluster.get(KEY)
        assert found is not None
        assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (60, 61)

    asyncio.run(body())


def test_a_listener_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    listener = (
        "import sys, time\nfrom pathlib import Path\nfrom kapstan.cluster.local.objects import Objects\n"
        "Objects(Path(sys.argv[1]), time.time).hang_bell()\nprint('hung', flush=True)\nsys.stdin.read()\n"
    )
    objects = Objects(tmp_path, lambda: 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", listener, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hung\n"
        assert len(list((tmp_path / "bells").iterdir())) == 1
        process.kill()
        process.wait(10)
    objects.create(worker())
    assert list((tmp_path / "bells").iterdir()) == []


def test_a_version_is_never_given_twice_after_a_crash(tmp_path: Path) -> None:
    objects = Objects(tmp_path, lambda: 0.0)
    first = objects.create(worker())
    # A writer that died after it took its number, before it put the object in place.
    (tmp_path / "version").write_text("41")
    second = objects.set_scale(KEY, 3)
    assert (first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]) == ("1", "42")


def test_what_a_deployment_owns_goes_with_it(tmp_path: Path) -> None:
    objects = Objects(tmp_path, lambda: 0.0)
    spec = {"flow": {"entrypoint": "flow.py:main"}, "workPoolRef": {"name": "pool"}}
    owner = objects.create(
        {"apiVersion": API_VERSION, "kind": "Deployment", "metadata": {"name": "nightly"}, "spec": spec}
    )
    run = {
        "apiVersion": API_VERSION,
        "kind": "FlowRun",
        "metadata": {
            "name": "owned",
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": "Deployment", "name": "nightly", "uid": owner["metadata"]["uid"]}
            ],
        },
        "spec": {"deploymentRef": {"name": "nightly"}},
    }
    objects.create(run)
    objects.create({**run, "metadata": {"name": "free"}})
    objects.delete(Key("Deployment", "default", "nightly"))
    assert [key.name for key in objects.keys("FlowRun")] == ["free"]


def test_events_are_kept_for_people(tmp_path: Path) -> None:
    async def body() -> None:
        cluster = LocalCluster(tmp_path, clock=lambda: 7.0)
        made = await cluster.create(worker())
        await cluster.emit(KEY, uid=made["metadata"]["uid"], severity="Normal", reason="ScaledDown", message="one goes")
        events = await cluster.events(KEY)
        assert [(event["time"], event["reason"]) for event in events] == [(7.0, "ScaledDown")]
        assert json.loads(json.dumps(events)) == events

    asyncio.run(body())
