"""What counts as the end of a process, and what does not: real processes that run, stop, die and are reaped late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.servers.redis import RedisServer

from kapstan.backend import Backend
from kapstan.ports import Holder
from kapstan.runs import deaths
from kapstan.settings import Settings

NAMES = "import sys; from kapstan.runs import deaths; h = deaths.holder_of('run'); "
SHOWS = "import dataclasses, json; print(json.dumps(dataclasses.asdict(h)), flush=True); sys.stdin.read()"


@pytest.fixture
def backend(server: RedisServer) -> Iterator[Backend]:
    server.start()
    made = Backend(Settings(redis_url=server.url, redis_retry_seconds=0.5))
    yield made
    made.close()
    server.stop()


@pytest.fixture
def server(tmp_path: Any) -> RedisServer:
    return RedisServer(tmp_path / "redis")


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], Holder]]:
    """Another process, and how its intents name it."""
    process = subprocess.Popen(
        [sys.executable, "-c", NAMES + SHOWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, Holder(**json.loads(process.stdout.readline()))
    process.kill()
    process.communicate()


def test_this_process_has_not_ended(backend: Backend) -> None:
    holder = deaths.holder_of("run")
    assert deaths.is_here(holder)
    assert deaths.end_of(backend, holder) is None
    assert holder == deaths.holder_of("run")


def test_a_process_that_runs_or_is_stopped_has_not_ended(
    backend: Backend, other: tuple[subprocess.Popen[str], Holder]
) -> None:
    process, holder = other
    assert holder.pid == process.pid
    assert not deaths.is_here(holder)
    assert deaths.end_of(backend, holder) is None
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert deaths.end_of(backend, holder) is None


def test_a_process_that_was_killed_has_ended_before_and_after_it_is_reaped(
    backend: Backend, other: tuple[subprocess.Popen[str], Holder]
) -> None:
    process, holder = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: it has a number and executes nothing
    assert deaths.end_of(backend, holder) == {"seen": f"process {process.pid} of this machine is gone"}
    process.wait()
    assert deaths.end_of(backend, holder) is not None


def test_a_number_that_was_given_to_another_process_is_not_the_same_process(
    backend: Backend, other: tuple[subprocess.Popen[str], Holder]
) -> None:
    _, holder = other
    assert deaths.end_of(backend, replace(holder, started=holder.started - 1)) is not None


def test_a_thread_that_outlives_the_first_one_is_a_process_that_lives(backend: Backend) -> None:
    code = (
        NAMES + "import ctypes, dataclasses, json, threading; print(json.dumps(dataclasses.asdict(h)), flush=True); "
        "threading.Thread(target=sys.stdin.read).start(); ctypes.CDLL(None).pthread_exit(None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        holder = Holder(**json.loads(process.stdout.readline()))
        while (status := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z":
            assert status in "RSD"
        assert deaths.end_of(backend, holder) is None, "its first thread has ended, and another one goes on"
        process.kill()
        process.wait()
        assert deaths.end_of(backend, holder) is not None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("machine", ["", "another boot pid:[1] time:[1]"])
def test_silence_from_elsewhere_is_no_end_and_what_was_seen_is(
    backend: Backend, other: tuple[subprocess.Popen[str], Holder], machine: str
) -> None:
    process, holder = other
    elsewhere = replace(holder, machine=machine, session="pod-1", executor="mark-1")
    process.kill()
    process.wait()
    assert deaths.end_of(backend, elsewhere) is None
    backend.queue.note_end("mark-2", {"cause": "another one"})
    assert deaths.end_of(backend, elsewhere) is None
    backend.queue.note_end("mark-1", {"cause": "killed by SIGKILL"})
    assert deaths.end_of(backend, elsewhere) == {"cause": "killed by SIGKILL"}


def test_a_session_whose_end_was_seen_has_ended_and_one_whose_lease_passed_has_not(backend: Backend) -> None:
    queue = backend.queue
    seen = queue.open_session("worker", ["t"], 1, session="pod-1-nonce")
    silent = queue.open_session("worker", ["t"], 1, session="pod-2-nonce")
    closed = queue.open_session("worker", ["t"], 1, session="pod-3-nonce")
    holder = Holder("run", "process", session=seen.name)
    try:
        closed.close()
        assert deaths.end_of(backend, replace(holder, session=closed.name)) is None
        silent_name, seen_name = silent.name, seen.name
        seen._wire.close()  # pyright: ignore  (its process is gone, and so is its connection)
        while seen_name not in queue.expire_session("pod-1", seen=True):
            continue
        found = deaths.end_of(backend, holder)
        assert found is not None
        assert found["seen"] == "the process of session pod-1-nonce was seen to end"
        assert deaths.end_of(backend, replace(holder, session=silent_name)) is None
    finally:
        silent.close()


def test_a_session_that_is_only_missing_has_not_ended(backend: Backend) -> None:
    """A pod that was removed by force, or whose node cannot be reached, may run on: its runs go back, no more."""
    queue = backend.queue
    missing = queue.open_session("worker", ["t"], 1, session="pod-4-nonce")
    name = missing.name
    missing._wire.close()  # pyright: ignore
    while name not in queue.expire_session("pod-4"):
        continue
    assert deaths.end_of(backend, Holder("run", "process", session=name)) is None
    missing.close()


def test_a_queue_that_is_away_proves_nothing(backend: Backend, server: RedisServer) -> None:
    backend.queue.note_end("mark", {"cause": "seen"})
    holder = Holder("run", "process", executor="mark")
    assert deaths.end_of(backend, holder) == {"cause": "seen"}
    server.kill()
    assert deaths.end_of(backend, holder) is None


def test_a_fork_is_another_process(backend: Backend) -> None:
    mine = deaths.holder_of("run")
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        theirs = deaths.holder_of("run")
        same = deaths.is_here(mine) or theirs.process == mine.process or theirs.pid == mine.pid
        os.write(told, b"same" if same else b"other")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(heard, 10) == b"other"
    os.close(heard)
    os.close(told)
