"""The index of flow runs in Redis and in files: pages, holders of leases, cancels, summaries that were spoilt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.queue.makers import CODEC, Register
from tests.servers.redis import RedisServer

from kapstan.codec import JSON, Codec
from kapstan.ids import RunId, derived_id, new_id
from kapstan.ports import FlowRuns
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.redis import RedisQueue
from kapstan.settings import Settings
from kapstan.signing_key import SigningKey
from kapstan.store.local_runs import LocalFlowRuns


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["files", "redis"])
def spoil_and_index(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Callable[[RunId, bytes], None], FlowRuns]]:
    """Writes bytes in the place of a summary; and the index."""
    if request.param == "files":
        yield (
            lambda run_id, body: (tmp_path / "summaries" / f"{run_id}.json").write_bytes(body) and None,
            LocalFlowRuns(tmp_path),
        )
        return
    server: RedisServer = request.getfixturevalue("server")
    settings = Settings(redis_url=server.url, namespace=f"t{new_id()[-9:-1].strip('-_').lower()}x", lease_seconds=2.0)
    queue = RedisQueue(settings, Register())

    def spoil(run_id: RunId, body: bytes) -> None:
        with server.client() as client:
            client.set(f"{queue.prefix}f:{run_id}", body)

    yield spoil, RedisFlowRuns(queue, CODEC)
    queue.close()


@pytest.fixture
def index(spoil_and_index: tuple[object, FlowRuns]) -> FlowRuns:
    return spoil_and_index[1]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_hold_every_run_once_newest_first(index: FlowRuns, limit: int) -> None:
    saved = [new_id(), derived_id("a"), new_id(), derived_id("b"), *[new_id() for _ in range(30)]]
    for run_id in saved:
        index.save(run_id, {"state": "RUNNING"})
    index.save(saved[0], {"state": "COMPLETED"})
    found: list[RunId] = []
    before = None
    while page := index.newest(limit, before):
        assert len(page) <= limit
        found += [run.run_id for run in page]
        before = page[-1][:2]
        index.save(new_id(), {"state": "LATER"})
    assert sorted(found) == sorted(saved)
    moments = [run.at for run in index.newest(100)]
    assert moments == sorted(moments, reverse=True)
    assert found[-1] in saved[:4]
    assert index.load(saved[0]) == {"state": "COMPLETED", "run_id": saved[0]}


def test_nothing_is_there(index: FlowRuns) -> None:
    assert index.newest(10) == []
    assert index.newest(0) == []
    assert index.holders([]) == []
    assert index.holders([new_id()]) == [None]
    assert index.delete(new_id()) is False


def test_who_holds_a_lease(index: FlowRuns) -> None:
    run_id = new_id()
    lease = index.lease(run_id, 3, "host:17")
    assert lease is not None
    assert index.holders([new_id(), run_id]) == [None, (3, "host:17", True)]
    lease.release()
    (holder,) = index.holders([run_id])
    assert holder is None or not holder.live


def test_a_cancel_is_heard_at_the_next_renewal_and_by_no_later_attempt(index: FlowRuns) -> None:
    run_id = new_id()
    first = index.lease(run_id, 1, "one")
    assert first is not None
    assert first.renew()
    assert not first.cancel_asked
    index.ask_cancel(run_id, 1)
    index.ask_cancel(run_id, 1)
    assert not first.cancel_asked
    assert first.renew()
    assert first.cancel_asked
    second = index.lease(run_id, 2, "two")
    assert second is not None
    assert second.renew()
    assert not second.cancel_asked
    second.release()


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_summary_that_cannot_be_read_means_nothing(
    spoil_and_index: tuple[Callable[[RunId, bytes], None], FlowRuns], body: bytes
) -> None:
    spoil, index = spoil_and_index
    good, spoilt = new_id(), new_id()
    for run_id in (good, spoilt):
        index.save(run_id, {"state": "COMPLETED"})
    spoil(spoilt, body)
    assert index.load(spoilt) is None
    assert [run.summary for run in index.newest(10)] == [None, {"state": "COMPLETED", "run_id": good}]
    assert [summary["run_id"] for summary in index.recent()] == [good]
    index.save(spoilt, {"state": "FAILED"})
    assert index.load(spoilt) == {"state": "FAILED", "run_id": spoilt}


def test_a_run_that_is_deleted_is_gone_from_everywhere(index: FlowRuns) -> None:
    run_id = new_id()
    index.save(run_id, {"state": "COMPLETED"})
    assert index.delete(run_id) is True
    assert index.load(run_id) is None
    assert index.newest(10) == []


def _by(codec: Codec, place: str) -> bytes:
    return codec.seal(JSON, b'{"state":"CANCELLED","outcome":"Cancelled","attempt":1,"ended":1.0}', "summary", place)


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(lambda _: b'{"state":"CANCELLED","outcome":"Cancelled","attempt":1}', id="unsigned"),
        pytest.param(lambda run_id: _by(Codec("team", [SigningKey.of(b"o" * 32)]), f"index/{run_id}"), id="other key"),
        pytest.param(
            lambda run_id: _by(Codec("other", [SigningKey.of(b"k" * 32)]), f"index/{run_id}"), id="other namespace"
        ),
        pytest.param(lambda _: _by(CODEC, f"index/{new_id()}"), id="other run"),
        pytest.param(lambda run_id: _by(CODEC, run_id), id="other place"),
    ],
)
def test_a_summary_that_the_namespace_did_not_write_for_this_run_is_not_believed(
    server: RedisServer, forged: Callable[[RunId], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can write to a Redis that tenants share could end the runs of another one."""
    queue = RedisQueue(Settings(redis_url=server.url, namespace="team", lease_seconds=2.0), Register())
    index, run_id = RedisFlowRuns(queue, CODEC), new_id()
    index.save(run_id, {"state": "RUNNING"})
    with server.client() as client:
        client.set(f"{queue.prefix}f:{run_id}", _by(CODEC, f"index/{run_id}"))
        assert index.load(run_id) is not None, "what the forgery is made of is good"
        client.set(f"{queue.prefix}f:{run_id}", forged(run_id))
    assert index.load(run_id) is None
    assert "the journal tells where flow run" in caplog.text
    queue.close()
