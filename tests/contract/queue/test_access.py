"""Redis users by role, on a real server: each does all of its work, and is refused what is not its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tests.contract.queue import garbage
from tests.contract.queue.makers import CODEC, TASK, Register, done, run, worker
from tests.contract.queue.test_stored import ENDED
from tests.servers.redis import RedisServer

from kapstan.cli import cli
from kapstan.durability import Durability
from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.ids import new_id
from kapstan.ports import BackgroundFilter, Wait
from kapstan.ports.background_runs import Change
from kapstan.queue import scripts
from kapstan.queue.access import ROLES
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.keys import KEYS
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack
from kapstan.settings import Settings

As = Callable[..., RedisQueue]


@pytest.fixture
def as_role(own_server: RedisServer) -> Iterator[As]:
    """The queue as the user of a role sees it. Nobody else may use the server."""
    opened: list[RedisQueue] = []
    with own_server.client() as client:
        for role in ROLES:
            line = CliRunner().invoke(cli, ("server", "acl", "--role", role, "-n", "team")).stdout
            client.execute_command(*shlex.split(line.replace(">PASSWORD", ">secret")))

    def opening(role: str, namespace: str = "team") -> RedisQueue:
        url = f"redis://team-{role}:secret@127.0.0.1:{own_server.port}/0"
        settings = Settings(redis_url=url, namespace=namespace, redis_retry_seconds=0.3)
        opened.append(RedisQueue(settings, Register()))
        return opened[-1]

    yield opening
    for queue in opened:
        queue.close()


def use_locks(queue: RedisQueue) -> None:
    locks = garbage.table(queue, "E" * 22)
    assert locks.ask(Wait("key", "me", "E" * 22, "1"), True, []).token
    locks.ask(Wait("key", "you", "E" * 22, "2"), True, [])
    locks.give_up(Wait("key", "you", "E" * 22, "2"))
    assert locks.holder("key").holder == "me"
    assert locks.release("key", "me", None)
    locks.end_client("E" * 22)
    locks.close()


def run_a_flow(queue: RedisQueue) -> None:
    flows, run_id = RedisFlowRuns(queue, CODEC), new_id()
    lease = flows.lease(run_id, 1, "me")
    assert lease.renew()
    flows.save(run_id, {"state": "Running"})
    assert flows.load(run_id)["state"] == "Running"
    assert flows.newest(5)
    assert flows.holders([run_id])
    flows.ask_cancel(run_id, 1)
    lease.release()
    wire = flows._subscribe(lambda: False)
    assert wire is not None
    wire.call(pack("PING"))
    wire.close()
    assert flows.delete(run_id)


def read_all(queue: RedisQueue) -> None:
    runs = RedisBackgroundRuns(queue)
    for state in ("ready", "running", "failed"):
        for listed in runs.page(BackgroundFilter(frozenset([state])), 10).runs:
            assert runs.look(listed.record.run_id)
    runs.page(BackgroundFilter(), 10)
    assert runs.counts()
    queue.depth([TASK])
    queue.sessions()
    queue.paused()
    queue.seen_end("nobody")
    queue.runs()
    queue.ping()
    RedisFlowRuns(queue, CODEC).newest(10)


def test_each_role_does_its_work(as_role: As) -> None:
    serving, client, operator, reader = (as_role(role) for role in ("worker", "client", "operator", "reader"))
    each = worker(serving, lanes=2)
    try:
        lane, runs = each.lane, RedisBackgroundRuns(operator)
        lane.step([], 1)
        handed, failing, retried, parked, waiting = (run() for _ in range(5))
        client.submit(handed)
        (claim,) = lane.wait(5.0)
        client.cancel(handed.run_id)
        assert each.session.renew().cancelled == [handed.run_id]
        lane.step([done(claim)], 0)
        assert client.wait([handed.run_id], 5.0) == {handed.run_id}
        assert client.record(handed.run_id).state == "completed"
        client.submit_many([failing, retried, parked])
        client.submit(run(delay=3600))
        client.submit(run(expires=3600))
        client.submit(run(after=(retried.run_id,)))
        for _ in range(2):
            client.replace("document", lambda run_id: run(run_id=run_id, delay=3600))
        claims = {claim.run_id: claim for claim in lane.step([], 3).claims}
        assert lane.retry(retried.run_id, claims[retried.run_id].token, 0.0)
        lane.step([done(claims[failing.run_id], state="failed"), done(claims[parked.run_id], b"K" * 52, "parked")], 1)
        lane.give_back([])
        read_all(reader)
        assert runs.rerun(failing.run_id)[0] is Change.DONE
        assert runs.rerun(parked.run_id)[0] is Change.DONE
        for queue in (serving, client):  # what `kapstan queue rebuild` does
            assert RedisBackgroundRuns(queue).restore(replace(ENDED, run_id=new_id()), b"arguments", 60.0)
            queue.submit(run(durability=Durability.STORE, begun=True))
        operator.pause(TASK)
        operator.resume(TASK)
        client.submit(waiting)
        operator.cancel(waiting.run_id)
        assert runs.delete(waiting.run_id)[0] is Change.DONE
        for queue in (serving, client, operator):
            run_a_flow(queue)
        for queue in (serving, client):
            use_locks(queue)
        serving.note_end("an-executor", {"seen": "it ended"})
        each.session.lane_died(1, None)
        read_all(operator)
        operator.drain_session(each.session.name)
        each.session.drain()
        each.session.claims()
    finally:
        each.close()
    assert operator.expire_session("nobody", seen=True) == []


def test_every_key_and_script_is_of_a_role() -> None:
    """What is added to the queue is given to those who use it."""
    written = {name for role in ROLES.values() for name in role.writes}
    assert {spec.name.partition("<")[0] for spec in KEYS} == written
    assert {script for role in ROLES.values() for script in role.scripts} == {*scripts.SCRIPTS}


ACTIONS: dict[str, Callable[[RedisQueue], object]] = {
    "open a session": lambda queue: queue.open_session("shop", (TASK,), 1),
    "open a lane": lambda queue: queue.open_lane("theirs", 0, (TASK,)),
    "claim": lambda queue: queue.call(scripts.step.pack(queue.prefix, "theirs", 0, "", 0, 1, 9, 1, TASK, 1)),
    "end a session": lambda queue: queue.expire_session("theirs", seen=True),
    "drain": lambda queue: queue.drain_session("theirs"),
    "say that a process ended": lambda queue: queue.note_end("theirs", {"seen": "a lie"}),
    "raise the era": lambda queue: queue.command(pack("HSET", f"{queue.prefix}m", "era", "999999")),
    "pause": lambda queue: queue.pause(TASK),
    "submit": lambda queue: queue.submit(run()),
    "cancel": lambda queue: [queue.cancel(found.run_id) for found in queue.runs()],
    "save a flow run": lambda queue: RedisFlowRuns(queue, CODEC).save(new_id(), {}),
    "take a lock": use_locks,
    "write a record": lambda queue: queue.command(pack("SET", f"{queue.prefix}t:{new_id()}", "x")),
    "tell a client": lambda queue: queue.command(pack("PUBLISH", f"{queue.prefix}c:12345678", "x")),
    "hear a lane": lambda queue: queue.command(pack("SUBSCRIBE", f"{queue.prefix}l:theirs:0")),
    "run a script of its own": lambda queue: queue.command(pack("EVAL", "return 1", 0)),
    "load a script": lambda queue: queue.command(pack("SCRIPT", "LOAD", "return 1")),
    "list all keys": lambda queue: queue.command(pack("KEYS", "*")),
    "throw all away": lambda queue: queue.command(pack("FLUSHDB")),
    "set the server": lambda queue: queue.command(pack("CONFIG", "SET", "maxmemory", "1")),
    "add a user": lambda queue: queue.command(pack("ACL", "SETUSER", "x", "on")),
    "write elsewhere": lambda queue: queue.command(pack("SET", "{other}:t:x", "x")),
    "read elsewhere": lambda queue: queue.command(pack("GET", "{other}:t:x")),
}
NOBODY = {"run a script of its own", "list all keys", "throw all away", "set the server", "add a user",
          "write elsewhere", "read elsewhere"}  # fmt: skip
CLIENT = NOBODY | {"open a session", "open a lane", "claim", "end a session", "drain", "say that a process ended",
                   "raise the era", "pause", "hear a lane", "load a script"}  # fmt: skip
CANNOT = {
    "client": CLIENT,
    "reader": CLIENT | {"submit", "cancel", "save a flow run", "take a lock", "write a record", "tell a client"},
    "worker": NOBODY | {"pause"},
    "operator": NOBODY | {"open a session", "open a lane", "claim", "submit", "take a lock", "hear a lane"},
}


def test_what_is_not_its_own_is_refused(as_role: As) -> None:
    each = worker(as_role("worker"), name="theirs")
    each.lane.step([], 1)
    client = as_role("client")
    client.submit(run())  # handed over
    waiting = run()
    client.submit(waiting)
    wrong: list[str] = []
    try:
        for role, cannot in CANNOT.items():
            for action in sorted(cannot):
                queue = as_role(role)
                try:
                    ACTIONS[action](queue)
                    wrong.append(f"a {role} can {action}")
                except ConfigurationError as error:
                    if "Redis refuses this user" not in str(error):
                        wrong.append(f"{role}: {action}: {error}")
        assert wrong == [], wrong
        assert client.record(waiting.run_id).state == "ready", "nothing was half done"
    finally:
        each.close()


def test_a_client_waits_for_the_scripts_that_it_may_not_load(as_role: As) -> None:
    with pytest.raises(QueueUnavailable, match=r"may not load scripts.*start a worker or the operator"):
        as_role("client").submit(run())
    as_role("operator").ping()
    as_role("client").submit(run())


def test_other_namespaces_are_out_of_reach(as_role: As) -> None:
    as_role("worker").ping()
    for role in ROLES:
        with pytest.raises(ConfigurationError, match="Redis refuses this user"):
            as_role(role, "other").depth([TASK])


def test_a_user_may_be_of_several_namespaces_and_is_of_no_other(as_role: As, own_server: RedisServer) -> None:
    line = CliRunner().invoke(cli, ("server", "acl", "--role", "worker", "-n", "team", "-n", "other")).stdout
    assert line.startswith("ACL SETUSER team-worker ")
    with own_server.client() as client:
        client.execute_command(*shlex.split(line.replace(">PASSWORD", ">secret")))
    for namespace in ("team", "other"):
        queue = as_role("worker", namespace)
        each = worker(queue)
        submitted = run()
        queue.submit(submitted)
        assert [claim.run_id for claim in each.lane.step([], 1).claims] == [submitted.run_id]
        each.close()
    with pytest.raises(ConfigurationError, match="Redis refuses this user"):
        as_role("worker", "third").depth([TASK])
