"""A parked run: it has not ended, nobody claims it, those who wait for it are told, and it goes on with what it had."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.contract.queue.makers import TASK, Register, Worker, done, run
from tests.servers.redis import RedisServer

from kapstan.ports import BackgroundFilter, Change, Claim
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.reconcile.kinds.task_worker.parked import look

Hire = Callable[..., Worker]
KEY = "a" * 52


@pytest.fixture
def claim(queue: RedisQueue, hire: Hire) -> tuple[Worker, Claim]:
    """A worker, and the run that it holds, of class at most once."""
    queue.submit(run(envelope=b"arguments", effect="a"))  # type: ignore[arg-type]
    worker = hire()
    (claimed,) = worker.lane.step([], 1).claims
    return worker, claimed


def test_it_keeps_its_arguments_names_its_key_and_stays(queue: RedisQueue, claim: tuple[Worker, Claim]) -> None:
    worker, claimed = claim
    assert worker.lane.step([done(claimed, KEY.encode(), "parked")], 1) == ([], [])
    record = queue.record(claimed.run_id)
    assert record is not None
    assert (record.state, record.key, record.envelope, record.session) == ("parked", KEY, b"arguments", "")
    assert record.token == claimed.token
    assert record.started is not None
    assert queue.command(b"*2\r\n$3\r\nTTL\r\n$%d\r\n%s\r\n" % _key(queue, claimed.run_id)) == -1
    assert queue.depth([TASK])[:3] == (0, 0, 0)
    (listed,) = RedisBackgroundRuns(queue).page(BackgroundFilter(frozenset({"parked"})), 10).runs
    assert (listed.record.run_id, listed.record.key) == (claimed.run_id, KEY)
    assert look(lambda _: RedisBackgroundRuns(queue), "shop") == (listed.record,), "as the operator sees it"


def _key(queue: RedisQueue, run_id: str) -> tuple[int, bytes]:
    name = f"{queue.prefix}t:{run_id}".encode()
    return len(name), name


def test_a_repeated_step_is_no_loss_and_another_token_is(queue: RedisQueue, claim: tuple[Worker, Claim]) -> None:
    worker, claimed = claim
    outcome = done(claimed, KEY.encode(), "parked")
    worker.lane.step([outcome], 0)
    assert worker.lane.step([outcome], 0).lost == []
    older = outcome._replace(token=claimed.token._replace(epoch=claimed.token.epoch - 1))
    assert worker.lane.step([older], 0).lost == [claimed.run_id]


def test_it_goes_on_with_its_arguments_attempts_and_a_greater_token(
    queue: RedisQueue, claim: tuple[Worker, Claim]
) -> None:
    worker, claimed = claim
    worker.lane.retry(claimed.run_id, claimed.token, 0.0)
    (second,) = worker.lane.step([], 1).claims
    assert second.attempt == 2
    worker.lane.step([done(second, KEY.encode(), "parked")], 0)
    assert RedisBackgroundRuns(queue).rerun(claimed.run_id) == (Change.DONE, "parked")
    (third,) = worker.lane.step([], 1).claims
    assert (third.envelope, third.attempt, third.effect) == (b"arguments", 2, "a")
    assert third.token > second.token
    worker.lane.step([done(third)], 0)
    assert queue.record(claimed.run_id).state == "completed"  # type: ignore[union-attr]


@pytest.mark.parametrize("who", ["the submitter", "another client"])
def test_who_waits_is_told_and_waits_again_when_it_goes_on(
    queue: RedisQueue,
    claim: tuple[Worker, Claim],
    who: str,
    shared_server: RedisServer,
    open_queue: Callable[..., RedisQueue],
) -> None:
    worker, claimed = claim
    waiting = queue
    if who == "another client":
        waiting = open_queue(shared_server, Register(), namespace=queue.settings.namespace)
    told: list[set[str]] = []
    thread = threading.Thread(target=lambda: told.append(waiting.wait([claimed.run_id], 30)))
    thread.start()
    while not waiting._inbox._waits:  # pyright: ignore[reportPrivateUsage]
        continue
    worker.lane.step([done(claimed, KEY.encode(), "parked")], 0)
    thread.join(30)
    assert told == [{claimed.run_id}]
    assert waiting.wait([claimed.run_id], 30) == {claimed.run_id}, "who comes later is told as well"
    RedisBackgroundRuns(queue).rerun(claimed.run_id)
    assert waiting.wait([claimed.run_id], 0.2) == set(), "it is parked no more"
    (again,) = worker.lane.step([], 1).claims
    worker.lane.step([done(again)], 0)
    assert waiting.wait([claimed.run_id], 30) == {claimed.run_id}
    assert waiting.record(claimed.run_id).state == "completed"  # type: ignore[union-attr]


def test_the_end_of_a_process_is_known_to_everybody(queue: RedisQueue) -> None:
    assert queue.seen_end("mark") is None
    queue.note_end("mark", {"cause": "killed by SIGKILL"})
    queue.note_end("mark", {"cause": "killed by SIGKILL"})
    assert queue.seen_end("mark") == {"cause": "killed by SIGKILL"}
    assert queue.seen_end("mark-2") is None
