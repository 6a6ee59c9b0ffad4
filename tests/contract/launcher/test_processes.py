"""What only processes promise: they outlive their launcher, keep their exit codes, and tell of wrong input."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.launcher.conftest import On, Place

from kapstan.cluster.local.bells import Bells
from kapstan.cluster.local.process import Process
from kapstan.cluster.local.processes import ProcessLauncher
from kapstan.errors import InvalidResource
from kapstan.ports import WorkerObservation


async def restarted(place: Place) -> ProcessLauncher:
    """As after a kill of the launcher: nothing was closed, another one takes over."""
    launcher = place.make(lambda _: place.heard.set())
    assert isinstance(launcher, ProcessLauncher)
    await launcher.open()
    place.launcher = launcher
    return launcher


def pid_of(pod: str | None) -> int:
    assert pod is not None
    return int(pod.removeprefix("pid-"))


def state_of(pid: int) -> str:
    return subprocess.check_output(["ps", "-o", "stat=", "-p", str(pid)], text=True)


def parent_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)], text=True))


def test_a_process_is_found_again_and_its_exit_code_too(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.start(place.request("waits"))
        before = await place.until(place.attempt, lambda seen: seen.running)
        await restarted(place)
        after = await place.attempt()
        assert (after.running, after.pod) == (True, before.pod)
        os.kill(pid_of(after.pod), signal.SIGKILL)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert (ended.exit_code, ended.reason) == (-9, "Killed")

    on(body)


def test_a_process_whose_waiter_was_killed_runs_on_and_is_seen_to_end(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.start(place.request("waits"))
        seen = await place.until(place.attempt, lambda seen: seen.running)
        os.kill(parent_of(pid_of(seen.pod)), signal.SIGKILL)
        assert not (await place.attempt()).ended
        os.kill(pid_of(seen.pod), signal.SIGKILL)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert ended.exit_code is None

    on(body)


def test_a_stop_is_carried_through_by_the_next_launcher(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.start(place.request("waits"))
        seen = await place.until(place.attempt, lambda seen: seen.running)
        os.kill(pid_of(seen.pod), signal.SIGSTOP)  # it cannot answer a SIGTERM

        async def state() -> str:
            return state_of(pid_of(seen.pod))

        await place.until(state, lambda state: state.startswith("T"))
        await place.launcher.stop(place.run, place.flow_run.uid, place.job(), grace=1.0)
        await place.launcher.close()
        await restarted(place)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert ended.exit_code == -9

    on(body)


def test_two_launchers_start_one_process(tmp_path: Path) -> None:
    async def body() -> None:
        marks = tmp_path / "marks"
        command = [sys.executable, "-c", f"open({str(marks)!r}, 'a').write('x')"]
        processes = [Process(tmp_path / "one") for _ in range(8)]
        await asyncio.gather(
            *(
                asyncio.to_thread(each.start, {"uid": "u", "at": 0.0}, command, cwd=str(tmp_path), environ={})
                for each in processes
            )
        )
        bells = Bells(time.time, lambda _: None)
        await asyncio.wait_for(bells.see_off(processes[0]), 30)
        assert marks.read_text() == "x"

    asyncio.run(body())


def test_a_directory_that_is_not_there_is_told_by_field(on: On) -> None:
    async def body(place: Place) -> None:
        wrong = place.request("quick")
        wrong.deployment["spec"]["flow"]["directory"] = "nowhere"
        with pytest.raises(InvalidResource) as refused:
            await place.launcher.start(wrong)
        assert "spec.flow.directory" in str(refused.value)

    on(body)


def test_a_member_that_cannot_start_says_why_and_is_not_started_in_a_row(on: On) -> None:
    async def body(place: Place) -> None:
        async def look() -> WorkerObservation:
            await place.launcher.ensure_workers(place.workers(1, tasks=["nothing.py:double"]))
            return await place.members()

        found = await place.until(look, lambda found: bool(found.members) and found.members[-1].message != "")
        assert "nothing.py" in found.members[-1].message
        assert not any(member.ready for member in found.members)

    on(body)
