"""Many runs are submitted and the connection goes midway, with replies on it: each run is there once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.contract.queue.makers import TASK, done, run, worker
from tests.servers.redis import RedisServer
from tests.servers.tcp_relay import TcpRelay

from kapstan.ports import Submitted
from kapstan.queue.redis import RedisQueue

RUNS = 1000
CHUNK = 250


@pytest.mark.parametrize("lost", [1, 2])
def test_a_bulk_submit_whose_replies_are_lost_is_sent_again_and_submits_each_once(
    shared_server: RedisServer, open_queue: Callable[..., RedisQueue], lost: int
) -> None:
    direct = open_queue(shared_server)
    idle = worker(direct)
    assert idle.lane.step([], 1).claims == []
    with TcpRelay(shared_server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        queue = open_queue(shared_server, url=url, namespace=direct.settings.namespace)
        queue.submit_many([run("other")])  # the scripts are loaded, the connection stands
        connections = relay.accepted
        submissions = [run(envelope=b"%d" % n) for n in range(RUNS)]
        relay.lose_reply(lost)
        answers = queue.submit_many(submissions)
        assert relay.lost.is_set()
        assert relay.accepted > connections
        queue.close()
    again = [n for n, answer in enumerate(answers) if answer.duplicate]
    assert len(again) >= CHUNK, "the fault did not bite: nothing was sent again that had been accepted"
    assert answers[0].duplicate == (lost == 1)
    assert answers == [Submitted(answer.state, duplicate=n in set(again)) for n, answer in enumerate(answers)]
    assert [answer.state for answer in answers].count("running") <= 1  # the one that the idle lane was handed
    claims = idle.lane.wait(10.0)
    while step := idle.lane.step([done(claim) for claim in claims[-CHUNK:]], CHUNK).claims:
        claims += step
    assert [claim.run_id for claim in claims] == [submission.run_id for submission in submissions]
    assert {direct.record(submission.run_id).state for submission in submissions} == {"completed"}
    assert direct.depth([TASK]).ready == 0
    idle.close()
