"""Durability ``store``, the client's part: a run stands in the store before the queue is given it, or is not there."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.durability.makers import LARGE, Away, Shop, dying, executed, id_of, work
from tests.servers.minio import Minio
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan.durability import Durability
from kapstan.engine import values
from kapstan.errors import ConfigurationError, IdempotencyConflict, QueueFull, StoreUnavailable
from kapstan.ids import new_id
from kapstan.queue.redis import RedisQueue
from kapstan.runs import submissions
from kapstan.runs.rebuild import Fate, Rebuild
from kapstan.settings import Settings


def ways(tag: str) -> list[Any]:
    """Every way to submit one run."""
    return [
        lambda: work.delay(tag),
        lambda: work.apply_async((tag,), idempotency_key=tag),
        lambda: work.apply_async_many([((tag,), {})])[0],
        lambda: work.apply_async_many([((tag,), {})], idempotency_keys=[tag])[0],
        lambda: work.map([tag], deferred=True)[0],
    ]


WAYS = pytest.mark.parametrize("way", range(len(ways(""))))


@WAYS
def test_the_store_has_it_before_the_queue(shop: Shop, monkeypatch: pytest.MonkeyPatch, way: int) -> None:
    seen: list[list[str]] = []
    for name in ("submit", "submit_many"):
        plain = getattr(RedisQueue, name)

        def looking(queue: RedisQueue, given: Any, plain: Any = plain) -> Any:
            seen.append(shop.stored()[0])
            return plain(queue, given)

        monkeypatch.setattr(RedisQueue, name, looking)
    run_id = id_of(ways("a")[way]())
    assert seen[-1] == [run_id]
    assert shop.record(run_id).stored
    assert shop.state(run_id) == "ready"


@WAYS
def test_who_dies_between_the_two_has_submitted_what_a_rebuild_submits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, way: int
) -> None:
    with monkeypatch.context() as patched:
        for name in ("submit", "submit_many"):
            patched.setattr(RedisQueue, name, dying)
        with pytest.raises(Away):
            ways("a")[way]()
    (run_id,) = shop.stored()[0]
    assert shop.state(run_id) == "unknown"
    assert shop.rebuild() == {Fate.SUBMITTED: 1}
    assert shop.hand().work() == 1
    assert (executed, shop.state(run_id)) == (["a"], "completed")


@WAYS
def test_without_a_store_nothing_is_submitted(own_minio: Minio, server: RedisServer, tmp_path: Any, way: int) -> None:
    settings = own_minio.settings(home=str(tmp_path), redis_url=server.url, store_deadline_seconds=0.3)
    backends.use(settings)
    work.delay("before")
    own_minio.kill()
    with pytest.raises(StoreUnavailable, match="durability='store': nothing was submitted, since the store does not"):
        ways("a")[way]()
    assert work.with_options(durability="redis").delay("b").state.name == "Scheduled"
    assert backends.current().queue.depth([work.task_key]).ready == 2
    backends.use(None)


def test_one_of_many_that_the_store_does_not_take(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    create, taken, number = submissions.create, [], itertools.count()

    def limited(backend: Any, stored: Any) -> Any:
        if next(number) >= 20:
            raise StoreUnavailable("it is full")
        taken.append(stored.run_id)
        return create(backend, stored)

    monkeypatch.setattr(submissions, "create", limited)
    with pytest.raises(StoreUnavailable, match=r"nothing was submitted.*it is full"):
        work.map(range(50), deferred=True)
    assert len(taken) == 20
    assert shop.stored() == ([], [])
    assert shop.backend.queue.depth([work.task_key]).ready == 0


def test_all_that_matters_is_in_it(shop: Shop) -> None:
    others = work.map(["x", "y"], deferred=True)
    subject = work.with_options(persist_result=True)
    now = shop.backend.store_time()
    future = subject.apply_async(
        ("a" * LARGE,), countdown=60, expires=timedelta(hours=1), wait_for=others, queue="slow", priority=7, group="g"
    )
    stored = submissions.read(shop.backend, id_of(future))
    assert stored is not None
    assert stored.submission == shop_submission(shop, stored.submission)
    assert (*stored.submission[4:5], *stored.submission[7:9], stored.persists) == ("slow", 7, "g", True)
    assert set(stored.submission.after) == {id_of(other) for other in others}
    assert stored.due == pytest.approx(now + 60, abs=3)
    assert stored.deadline == pytest.approx(now + 3600, abs=3)
    arguments = values.open_value(
        shop.backend,
        stored.submission.envelope,
        "arguments",
        values.arguments_key(id_of(future), work.task_key),
    )
    assert arguments[0] == ["a" * LARGE], "large arguments are where the submission refers to"


def shop_submission(shop: Shop, stored: Any) -> Any:
    """``stored`` as the record in the queue tells it."""
    record = shop.record(stored.run_id)
    assert record is not None
    return stored._replace(
        envelope=record.envelope,
        fingerprint=record.fingerprint,
        queue=record.queue,
        priority=record.priority,
        group=record.group,
        effect=record.effect,
        durability=Durability.STORE,
    )


def test_the_same_twice_is_one_run(shop: Shop) -> None:
    first, second = (work.apply_async(("a",), idempotency_key="k") for _ in range(2))
    assert first == second
    assert shop.stored() == ([id_of(first)], [])
    assert shop.hand().work() == 1
    third = work.apply_async(("a",), idempotency_key="k")
    assert (third.result(timeout=10), executed) == ("a", ["a"])
    assert shop.stored() == ([], [id_of(first)]), "what was written for a run that has ended is taken away"


def test_a_key_that_is_used_for_other_arguments_changes_nothing(shop: Shop) -> None:
    first = work.apply_async(("a",), idempotency_key="k")
    before = submissions.read(shop.backend, id_of(first))
    with pytest.raises(IdempotencyConflict, match="'k' of durable work was used with other arguments"):
        work.apply_async(("b",), idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        work.apply_async_many([(("c",), {}), (("b",), {})], idempotency_keys=["other", "k"])
    assert submissions.read(shop.backend, id_of(first)) == before
    assert len(shop.stored()[0]) == 2, "the other of the two was accepted"
    shop.lose_redis()
    with pytest.raises(IdempotencyConflict):
        work.apply_async(("b",), idempotency_key="k")
    shop.rebuild()
    shop.hand().work()
    assert sorted(executed) == ["a", "c"]


def test_of_a_run_that_was_submitted_with_less_the_first_submit_counts(shop: Shop) -> None:
    plain = work.with_options(durability="redis").apply_async(("a",), idempotency_key="k")
    assert work.apply_async(("a",), idempotency_key="k") == plain
    assert shop.rebuild() == {Fate.KNOWN: 1}
    assert shop.hand().work() == 1
    shop.lose_redis()
    assert shop.rebuild() == {}, "nothing says that it has ended: it must not be there to be submitted again"


@pytest.mark.parametrize("key", [None, "k"])
def test_what_the_queue_refuses_is_not_submitted_later(shop: Shop, key: str | None) -> None:
    work.delay("loads the scripts")
    with shop.server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(QueueFull):
            work.apply_async(("a",), idempotency_key=key)
        with pytest.raises(QueueFull):
            work.apply_async_many([(("b",), {})])
        client.config_set("maxmemory", 0)
    assert shop.rebuild() == {Fate.KNOWN: 1}
    if key:
        assert work.apply_async(("a",), idempotency_key=key).state.name == "Scheduled"
        shop.lose_redis()
        assert shop.rebuild() == {Fate.SUBMITTED: 2}


def test_a_client_that_repeats_its_request_after_the_loss_runs_nothing_twice(shop: Shop) -> None:
    done = work.apply_async(("done",), idempotency_key="done")
    assert shop.hand().work() == 1
    work.apply_async(("open",), idempotency_key="open")
    shop.lose_redis()
    assert work.apply_async(("done",), idempotency_key="done").result(timeout=10) == "done"
    with pytest.raises(IdempotencyConflict):
        work.apply_async(("else",), idempotency_key="done")
    work.apply_async(("open",), idempotency_key="open")
    assert shop.rebuild() == {Fate.KNOWN: 1}
    assert shop.hand().work() == 1
    assert executed == ["done", "open"]
    assert shop.noted(id_of(done)) == "completed"


def test_a_key_is_free_again_when_its_record_would_have_expired(shop: Shop, settings: Settings) -> None:
    first = work.apply_async(("a",), idempotency_key="k")
    shop.hand().work()
    with shop.server.client() as client:
        client.delete(f"{{{settings.namespace}}}:t:{id_of(first)}")
    brief = replace(settings, result_ttl_seconds=1)
    backends.use(brief)
    while work.apply_async(("a",), idempotency_key="k").state.name != "Scheduled":
        backends.use(brief)  # this one remembers the end that it has read
    assert shop.noted(id_of(first)) == "", "the end of the run before it is not that of this one"
    shop.hand().work()
    assert executed == ["a", "a"]


def test_a_replace_key_is_refused(shop: Shop) -> None:
    text = "replace_key='k' and durability='store' of durable work: a run in the store is not replaced"
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        work.apply_async(("a",), replace_key="k")
    assert shop.stored() == ([], [])
    work.apply_async(("a",), replace_key="k", durability="redis")


def test_the_setting_is_the_default(shop: Shop, settings: Settings) -> None:
    backends.use(replace(settings, durability="store"))
    plain = work.with_options(durability=None)
    future = plain.delay("a")
    plain.apply_async(("b",), durability="redis")
    assert shop.stored()[0] == [id_of(future)]


def test_another_run_in_its_place_is_refused(shop: Shop) -> None:
    future, other = work.delay("a"), new_id()
    stored = shop.backend.store.get(submissions.FOLDER + id_of(future))
    assert stored is not None
    shop.backend.store.put(submissions.FOLDER + other, stored.body)
    shop.lose_redis()
    report = Rebuild(shop.backend).run()
    assert dict(report.total) == {Fate.SUBMITTED: 1, Fate.UNREADABLE: 1}
    assert "signature" in report.unreadable[other]
    assert shop.state(other) == "unknown"
