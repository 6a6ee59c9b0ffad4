"""``kapstan queue rebuild``: what it prints, two at once, and one that is killed in the middle."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.integration.durability.makers import Shop, executed, id_of, once, work
from tests.servers.worker import REPOSITORY

from kapstan import backend as backends
from kapstan import ids
from kapstan.backend import Backend
from kapstan.cli import cli
from kapstan.errors import ConfigurationError
from kapstan.ids import new_id
from kapstan.queue.access import rules
from kapstan.runs import submissions
from kapstan.runs.rebuild import Fate, Rebuild
from kapstan.settings import Settings

RUNS = 450


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ("queue", "rebuild", *arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(printed: Result) -> dict[str, list[str]]:
    """Task -> the other columns."""
    lines = [line.rsplit(maxsplit=8) for line in printed.stdout.splitlines()[1:]]
    return {line[0]: line[1:] for line in lines}


def test_it_prints_what_it_would_do_and_then_does_it(shop: Shop) -> None:
    work.map(["a", "b", "c"], deferred=True)
    shop.hand().work(1)
    work.apply_async(("late",), expires=3600)
    once.delay("d")
    shop.lose_redis()
    dry = command()
    assert rows(dry) == {
        "durable once": ["0", "1", "0", "0", "0", "0", "0", "0"],
        "durable work": ["3", "0", "1", "0", "0", "0", "0", "0"],
    }
    assert "Nothing was changed; --yes does it." in dry.stderr
    assert shop.backend.queue.depth([work.task_key, once.task_key]).ready == 0
    done = command("--yes")
    assert rows(done) == rows(dry)
    assert "Nothing was changed" not in done.stderr
    assert shop.backend.queue.depth([work.task_key, once.task_key]).ready == 4
    again = json.loads(command("--yes", "-o", "json").stdout)
    assert again == {
        "dry_run": False,
        "tasks": {"durable work": {"known": 3}, "durable once": {"known": 1}},
        "unreadable": {},
    }
    shop.hand().work()
    assert sorted(executed) == ["a", "b", "c", "d", "late"]


def test_what_cannot_be_read_is_named_and_left_alone(shop: Shop) -> None:
    work.delay("a")
    strange = new_id()
    shop.backend.store.put(submissions.FOLDER + strange, b"written by another program")
    shop.lose_redis()
    done = command("--yes")
    assert done.exit_code == 1
    assert f"left alone: task run {ids.to_uuid(strange)}: " in done.stderr
    assert shop.hand().work() == 1
    assert strange in shop.stored()[0]


def test_nothing_is_stored(shop: Shop) -> None:
    for done in (command("--yes"), command()):
        assert (done.exit_code, done.stderr) == (0, f"Nothing is stored in namespace {shop.settings.namespace!r}.\n")


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_namespace_that_is_none(shop: Shop, output: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace='no such!'"):
        command("-n", "no such!", "-o", output)


def test_of_very_many_that_cannot_be_read_the_first_are_named(shop: Shop) -> None:
    for _ in range(103):
        shop.backend.store.put(submissions.FOLDER + new_id(), b"written by another program")
    done = command("--yes")
    assert done.exit_code == 1
    assert done.stderr.count("left alone: task run ") == 100
    assert done.stderr.endswith("left alone: 3 more\n")


def test_a_user_that_may_not_submit(shop: Shop) -> None:
    work.delay("a")
    shop.lose_redis()
    with shop.server.client() as client:
        rule = rules("operator", shop.settings.namespace)
        client.execute_command(*shlex.split(f"ACL SETUSER shown reset on >secret {rule}"))  # pyright: ignore
    backends.use(replace(shop.settings, redis_url=shop.settings.redis_url.replace("//", "//shown:secret@")))
    assert command().stdout.split("\n")[1].split()[:3] == ["durable", "work", "1"]
    with pytest.raises(ConfigurationError, match=r"Redis refuses this user.*needs a user of the role worker"):
        command("--yes")
    backends.use(shop.settings)
    assert shop.rebuild() == {Fate.SUBMITTED: 1}, "nothing was half done"


def test_a_home_that_was_mistyped(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, s3_endpoint="")
    backends.use(replace(settings, home=str(tmp_path / "typo")))
    with pytest.raises(ConfigurationError, match=r"typo.*no such folder"):
        command("--yes")
    backends.use(None)


def test_two_at_once_while_clients_and_a_worker_are_at_work(shop: Shop) -> None:
    tags = [str(number) for number in range(RUNS)]
    futures = work.map(tags, deferred=True)
    shop.hand().work(50)
    shop.lose_redis()
    own = [Backend(shop.settings) for _ in range(2)]
    both = threading.Barrier(3)
    found: list[dict[Fate, int]] = []

    def rebuild(backend: Backend) -> None:
        both.wait(30)
        found.append(dict(Rebuild(backend).run().total))

    threads = [threading.Thread(target=rebuild, args=(each,)) for each in own]
    for thread in threads:
        thread.start()
    hand = shop.hand()
    both.wait(30)
    while any(thread.is_alive() for thread in threads):
        hand.work(20)
        work.delay("more")
    for thread in threads:
        thread.join()
    for backend in own:
        backend.close()
    hand.work()
    assert len(found) == 2, "one of them failed"
    assert sorted(tag for tag in executed if tag != "more") == sorted(tags)
    assert {shop.state(id_of(future)) for future in futures} == {"completed"}
    assert shop.stored()[0] == []


def environment(settings: Settings) -> dict[str, str]:
    names = ("home", "namespace", "redis_url", "s3_endpoint", "s3_bucket", "s3_access_key", "s3_secret_key")
    given = {f"KAPSTAN_{name.upper()}": str(getattr(settings, name)) for name in names if getattr(settings, name)}
    return {**os.environ, **given, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}"}


def test_one_that_is_killed_in_the_middle_and_repeated(shop: Shop) -> None:
    work.map([str(number) for number in range(RUNS)], deferred=True)
    shop.lose_redis()
    command = [sys.executable, "-m", "kapstan", "queue", "rebuild", "--yes"]
    with (
        subprocess.Popen(command, cwd=REPOSITORY, env=environment(shop.settings), stdout=subprocess.PIPE) as process,
        shop.server.client() as client,
    ):
        key = f"{{{shop.settings.namespace}}}:q:{work.task_key}"
        while not client.llen(key):
            assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        assert process.stdout is not None
        assert process.stdout.read() == b"", "it had ended"
        before = client.llen(key)
    assert 0 < before < RUNS
    assert shop.rebuild() == {Fate.KNOWN: before, Fate.SUBMITTED: RUNS - before}
    shop.hand().work()
    assert sorted(executed) == sorted(str(number) for number in range(RUNS))
