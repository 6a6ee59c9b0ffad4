"""Redis behind Sentinel: real processes, one primary, one replica, three Sentinels; the primary is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.queue.conftest import server_program
from tests.contract.queue.makers import TASK, done, run, worker
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Watched, free_port

from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.queue.sentinel import SentinelAddress


@pytest.fixture
def watched(kind: str, tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path, server_program(kind))
    yield watched
    watched.close()


@pytest.mark.timeout(120)
def test_work_goes_on_at_the_new_primary(watched: Watched, open_queue) -> None:
    queue = open_queue(watched.primary, url=watched.url, redis_retry_seconds=60.0)
    submissions = [run() for _ in range(5)]
    queue.submit_many(submissions)
    shop = worker(queue)
    first, second = shop.lane.step([], 2).claims
    with watched.primary.client() as client:
        assert client.wait(1, 10_000) == 1  # the replica has it all: a lost tail is another test's
    watched.primary.kill()
    assert shop.session.renew().alive
    stepped = shop.lane.step([done(first), done(second)], 3)
    assert stepped.lost == []
    assert [claim.run_id for claim in stepped.claims] == [submission.run_id for submission in submissions[2:]]
    assert {claim.token.era for claim in stepped.claims} == {2}, "another server is another start"
    late = run()
    queue.submit(late)
    assert [claim.run_id for claim in shop.lane.step([done(claim) for claim in stepped.claims], 1).claims] == [
        late.run_id
    ]
    assert queue.wait([submissions[-1].run_id], 20.0) == {submissions[-1].run_id}
    with watched.replica.client() as client:
        assert client.role()[0] == b"master"
    assert queue.depth([TASK]).running == 1
    shop.close()


def test_no_sentinel_that_answers_is_an_outage(open_queue, shared_server: RedisServer) -> None:
    queue = open_queue(shared_server, url=f"redis+sentinel://127.0.0.1:{free_port()}/jobs", redis_retry_seconds=0.3)
    with pytest.raises(QueueUnavailable, match=r"Redis at jobs \(by Sentinel\) did not answer"):
        queue.submit(run())


def test_a_redis_that_is_itself_a_sentinel_is_refused_by_name(watched: Watched, open_queue) -> None:
    with pytest.raises(ConfigurationError, match="names a Sentinel, not a Redis"):
        open_queue(watched.primary, url=f"redis://127.0.0.1:{watched.ports[0]}/0").submit(run())


def test_an_address_says_where_the_sentinels_are_and_what_is_the_servers() -> None:
    address = SentinelAddress.parse(
        "rediss+sentinel://me:se%40cret@a:1,b/jobs/3?sentinel_password=x&ssl_cert_reqs=none"
    )
    assert address == SentinelAddress(
        [("a", 1), ("b", 26379)], "jobs", "rediss://me:se%40cret@primary/3?ssl_cert_reqs=none", None, "x"
    )
    assert SentinelAddress.parse("redis://a:1/0") is None


@pytest.mark.parametrize(
    "url", ["redis+sentinel://a:1", "redis+sentinel:///jobs", "redis+sentinel://a:x/jobs", "redis+sentinel://a/jobs/x"]
)
def test_an_address_that_cannot_work_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HOST:PORT,HOST:PORT/SERVICE"):
        SentinelAddress.parse(url)
