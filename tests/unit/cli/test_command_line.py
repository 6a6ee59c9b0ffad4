"""Mistakes on the command line end with one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kapstan.states import ExitCode


def kapstan(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kapstan", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gett"], "No such command 'gett'. Did you mean 'get'?"),
        (["flow-runs"], "'flow-run'"),
        (["flow-run", "lst"], "Did you mean 'ls'?"),
        (["flow-run", "ls", "--limt", "3"], "Did you mean '--limit'?"),
        (["get", "pods"], "'pods' is no kind of Kapstan: write one of deployments (kdep)"),
        (["run", "a:b", "-p", "x"], "--param 'x': write NAME=VALUE"),
        (["run", "a:b", "--parameters", "[1]"], "--parameters '[1]': give a JSON object"),
        (["run", "nowhere"], "'nowhere': give module:flow or file.py:flow"),
        (["dev", "--grace", "nan"], "'nan': give a number of seconds, 0 or more"),
        (["dev", "--grace", "-1"], "'-1': give a number of seconds, 0 or more"),
        (["task", "serve", "a:b", "--drain-seconds", "inf"], "'inf': give a number of seconds, 0 or more"),
        (["task", "serve", "a:b", "--limit", "10000000000"], "is not in the range 1<=x<=1000"),
        (["flow-run", "ls", "--kubeconfig", "/etc/passwd"], "/etc/passwd is no kubeconfig"),
        (
            ["task", "serve", "tests.unit.cli.leaving:add"],
            "tests.unit.cli.leaving calls sys.exit(3) while it is imported",
        ),
    ],
)
def test_a_mistake_names_what_was_meant(tmp_path: Path, arguments: list[str], words: str) -> None:
    ended = kapstan(*arguments, KAPSTAN_HOME=str(tmp_path))
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KAPSTAN_LOG_LEVEL", "loud", "KAPSTAN_LOG_LEVEL='loud': give DEBUG"),
        ("KAPSTAN_WORKER_LIMIT", "many", "KAPSTAN_WORKER_LIMIT='many': give a whole number"),
        ("KAPSTAN_REDIS_URL", "redis:6379", "KAPSTAN_REDIS_URL: give an address"),
        ("KAPSTAN_REDIS_URI", "redis://r", "did you mean KAPSTAN_REDIS_URL?"),
        ("KAPSTAN_HOME", "/dev/null/home", "KAPSTAN_HOME='/dev/null/home' cannot be used (Not a directory)"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_exit_code_2(name: str, value: str, words: str) -> None:
    ended = kapstan("run", "a:b", **{name: value})
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["flow-run", "ls", "-o", "json"]])
def test_an_output_that_is_full_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "kapstan", *arguments]
    with open("/dev/full", "w") as full:
        environ = {**os.environ, "KAPSTAN_HOME": str(tmp_path)}
        ended = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "Error: the output cannot be written (No space left on device)\n"


def test_letters_that_the_output_cannot_show_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("from kapstan import flow\n@flow\ndef main():\n    print(1)\n")
    asked = ["run", f"{tmp_path}/kept.py:main", "--name", "grün"]
    environ = {"KAPSTAN_HOME": str(tmp_path / "home"), "PYTHONIOENCODING": "ascii"}
    assert kapstan(*asked, **environ).returncode == 0
    listed = kapstan("flow-run", "ls", **environ)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert r"gr\xfcn" in listed.stdout


def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m kapstan flow-run ls >&-"
    environ = {**os.environ, "KAPSTAN_HOME": str(tmp_path)}
    ended = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cluster").write_text("")
    ended = kapstan("get", "all", KAPSTAN_HOME=str(tmp_path))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert str(tmp_path / "cluster") in ended.stderr


def test_single_parameters_reach_the_flow(tmp_path: Path) -> None:
    (tmp_path / "etl.py").write_text(
        "from kapstan import flow\n"
        "@flow\n"
        "def etl(table: str, limit: int = 5, **options):\n"
        "    print('GOT', table, limit, options)\n"
    )
    ended = kapstan(
        "run",
        f"{tmp_path}/etl.py:etl",
        *["-p", "table=users", "-p", "limit=7", "-p", 'mode={"full": true}', "--parameters", '{"limit": 1, "a": 2}'],
        KAPSTAN_HOME=str(tmp_path / "home"),
    )
    assert "GOT users 7 {'a': 2, 'mode': {'full': True}}" in ended.stdout + ended.stderr
    assert ended.returncode == 0


def test_the_first_process_of_a_container_ends_when_it_is_asked_to() -> None:
    """From the very start, and not at the end of the grace period: a process 1 without a handler hears no SIGTERM."""
    code = "import os, signal, kapstan.cli as c; own = os.getpid(); os.getpid = lambda: 1; c._end_when_asked(); "
    code += "os.kill(own, signal.SIGTERM); print('still here')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (ExitCode.HANDED_BACK, "")
