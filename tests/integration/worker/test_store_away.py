"""The store does not take, or does not give: what was computed is kept and never executed again, and what cannot be
read waits its turn."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY, Minio

from kapstan import backend, ids, settings
from kapstan.errors import StoreRefused

LARGE = 20_000


class LocalFault:
    """A local store that refuses every write, as a full disk or a lost right does."""

    def __init__(self) -> None:
        self._aside = settings.current().home_path / "store" / "default" / "aside"

    def begin(self) -> None:
        self._aside.rmdir()
        self._aside.touch()
        with pytest.raises(StoreRefused):
            backend.current().store.put("proof", b"that the fault bites")

    def end(self) -> None:
        self._aside.unlink()
        self._aside.mkdir()


def executions(sink: Sink, tag: str) -> int:
    return [event[:2] for event in sink.events].count(("ran", tag))


@pytest.mark.parametrize("ending", ["result", "failure"])
def test_an_outcome_waits_for_the_store_and_its_run_is_not_executed_again(
    start: Start, sink: Sink, ending: str
) -> None:
    worker = start(limit=2)
    served.large.delay("before", LARGE).result(timeout=20)
    fault = LocalFault()
    fault.begin()
    future = served.large.delay("t", LARGE) if ending == "result" else served.large_failure.delay("t", LARGE)
    worker.await_line("for a store that takes its")
    assert [served.add.delay(n, 1).result(timeout=20) for n in range(20)] == list(range(1, 21))  # the other lane
    fault.end()
    if ending == "result":
        assert future.result(timeout=30) == "t" * LARGE
    else:
        with pytest.raises(ValueError, match="tttt"):
            future.result(timeout=30)
    assert executions(sink, "t") == 1


def test_a_lane_that_keeps_an_outcome_claims_nothing_and_holds_nothing_back(start: Start, sink: Sink) -> None:
    worker = start(limit=1)
    served.large.delay("before", LARGE).result(timeout=20)
    for _ in range(300):  # so short that many are claimed at once
        served.noop.delay()
    fault = LocalFault()
    fault.begin()
    kept = served.large.delay("t", LARGE)
    behind = [served.mark.delay(f"behind-{n}") for n in range(20)]
    worker.await_line("for a store that takes its")
    start(limit=1)
    for future in behind:
        future.result(timeout=20)
    fault.end()
    assert kept.result(timeout=30) == "t" * LARGE
    assert executions(sink, "t") == 1
    assert {executions(sink, f"behind-{n}") for n in range(20)} == {1}


@pytest.mark.parametrize("why", ["the drain is over", "cancelled"])
def test_an_outcome_that_cannot_wait_goes_into_redis(start: Start, sink: Sink, why: str) -> None:
    worker = start(limit=1, arguments=("--drain-seconds", "0.5"))
    served.large.delay("before", LARGE).result(timeout=20)
    fault = LocalFault()
    fault.begin()
    future = served.large.delay("t", LARGE)
    worker.await_line("for a store that takes its")
    if why == "cancelled":
        backend.current().queue.cancel(ids.parse(future.task_run_id))
    else:
        worker.signal(signal.SIGTERM)
    assert future.result(timeout=20) == "t" * LARGE
    if why == "the drain is over":
        worker.wait()
    start(limit=1)
    served.mark.delay("after").result(timeout=20)
    assert executions(sink, "t") == 1


# ---------------------------------------------------------------------------------------------- an object store


@pytest.fixture
def objects(server: object, own_minio: Minio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Minio]:
    """Values go to a MinIO of this test's own."""
    for name, value in {
        "ENDPOINT": own_minio.url, "BUCKET": BUCKET, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY
    }.items():  # fmt: skip
        monkeypatch.setenv(f"KAPSTAN_S3_{name}", value)
    monkeypatch.setenv("KAPSTAN_STORE_DEADLINE_SECONDS", "0.5")
    backend.use(None)
    yield own_minio
    backend.use(None)


def test_arguments_that_cannot_be_read_wait_uncharged_and_without_haste(
    objects: Minio, start: Start, sink: Sink, gate: Gate
) -> None:
    worker = start(limit=1)
    held = served.hold.delay("gate", gate.path)
    sink.expect("began", "gate")
    unreadable = [served.measure.delay(f"t{n}", "x" * LARGE) for n in range(2)]
    objects.kill()
    gate.open()
    assert held.result(timeout=20) == "gate"
    for future in unreadable:
        worker.await_line(f"{ids.parse(future.task_run_id)} goes back for 1 s, its arguments cannot be read")
    assert served.add.delay(1, 1).result(timeout=20) == 2, "what needs no store goes on"
    record = backend.current().queue.record(ids.parse(unreadable[0].task_run_id))
    assert record is not None
    assert (record.attempt, record.crashes) == (1, 0)
    assert record.token.epoch <= 3, "it was claimed again and again"
    objects.start()
    assert [future.result(timeout=40) for future in unreadable] == [LARGE, LARGE]
    assert [executions(sink, f"t{n}") for n in range(2)] == [1, 1]


def test_a_store_that_refuses_the_key_costs_no_second_execution(objects: Minio, start: Start, sink: Sink) -> None:
    first = start(limit=1)  # raises the era, which takes the right key
    first.signal(signal.SIGTERM)
    first.wait()
    worker = start(limit=1, env={"KAPSTAN_S3_SECRET_KEY": "wrong"}, arguments=("--drain-seconds", "0.5"))
    future = served.large.delay("t", LARGE)
    while not executions(sink, "t"):
        time.sleep(0.01)
    worker.await_line("SignatureDoesNotMatch")
    worker.signal(signal.SIGTERM)
    assert future.result(timeout=20) == "t" * LARGE
    worker.wait()
    start(limit=1)
    served.mark.delay("after").result(timeout=20)
    assert executions(sink, "t") == 1
